"""`mlc-chat-config.json`: what MLC's tools read beside the weights, patched to a copilot's values.

Keys and order as mlc_llm writes them today; the values of generation are those of `compile/generation.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compile.architectures import FAMILIES
from compile.caches import PREFILL_CHUNK
from compile.schemes import Scheme
from toolchain.contracts.architectures.facts import Architecture
from toolchain.contracts.fim import FimIds

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)
CHAT_TEMPLATE = "chat_template.jinja"


def make(
    facts: Architecture,
    scheme: Scheme,
    context_size: int,
    checkpoint: Path,
    end_token: str,
    ids: FimIds,
    generation: Mapping[str, float],
) -> dict[str, Any]:
    """The file's content. Generation ends at `end_token` and all other control tokens."""
    config, family = facts.config, FAMILIES[facts.family]
    model_config = family.model_config(facts) | {
        "vocab_size": facts.vocab_size,
        "context_window_size": context_size,
        "prefill_chunk_size": min(PREFILL_CHUNK, context_size),
        "tensor_parallel_shards": 1,
        "max_batch_size": 1,
    }
    return {
        "version": "0.1.0",
        "model_type": facts.family,
        "quantization": scheme.name,
        "model_config": model_config,
        "vocab_size": facts.vocab_size,
        "context_window_size": context_size,
        "sliding_window_size": -1,
        "prefill_chunk_size": model_config["prefill_chunk_size"],
        "attention_sink_size": -1,
        "tensor_parallel_shards": 1,
        "pipeline_parallel_stages": 1,
        "active_vocab_size": facts.vocab_size,
        "temperature": generation["temperature"],
        "presence_penalty": generation["presence_penalty"],
        "frequency_penalty": generation["frequency_penalty"],
        "repetition_penalty": generation["repetition_penalty"],
        "top_p": generation["top_p"],
        "tokenizer_files": [name for name in TOKENIZER_FILES if (checkpoint / name).is_file()],
        "tokenizer_info": {
            "token_postproc_method": "byte_level",
            "prepend_space_in_encode": False,
            "strip_space_in_decode": False,
        },
        "conv_template": conversation(family.TEMPLATE, end_token, sorted(ids.control)),
        "pad_token_id": _id(config.get("pad_token_id"), ids.end_of_text),
        "bos_token_id": _id(config.get("bos_token_id"), ids.end_of_text),
        "eos_token_id": _id(config.get("eos_token_id"), ids.end_of_text),
        "model_task": "chat",
        "mean_gen_len": generation["mean_gen_len"],
        "max_gen_len": generation["max_gen_len"],
    }


def conversation(name: str, end_token: str, stop_ids: list[int]) -> dict[str, Any]:
    """MLC's template for text as it is, with nothing around it."""
    return {
        "name": name,
        "system_template": "{system_message}",
        "system_message": "",
        "system_prefix_token_ids": None,
        "add_role_after_system_message": True,
        "roles": {"user": "", "assistant": "", "tool": ""},
        "role_templates": {"user": "{user_message}", "assistant": "{assistant_message}", "tool": "{tool_message}"},
        "messages": [],
        "seps": [""],
        "role_content_sep": "",
        "role_empty_sep": "",
        "stop_str": [end_token],
        "stop_token_ids": stop_ids,
        "function_string": "",
        "use_function_calling": False,
    }


def write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _id(value: Any, otherwise: int) -> int:
    return int(value[0] if isinstance(value, list) and value else value if isinstance(value, int) else otherwise)
