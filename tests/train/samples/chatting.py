"""Real questions and answers, from the standard library's own docstrings, and a base that can be taught to chat."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tests.train.tiny import LIBRARY, SHAPE, TRAIN, library_texts
from toolchain.contracts.chat.format import Message
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute
from train.data.dialogues import plan
from train.data.settings import DialogueSettings
from train.scratch import make_model, train_tokenizer

MODULES = ("textwrap", "shlex", "heapq", "bisect", "csv", "random", "statistics", "fractions", "string", "calendar")
SPECIAL = ("<|im_start|>", "<|im_end|>")
CHATML = """\
{%- for message in messages -%}
    {{- '<|im_start|>' ~ message.role ~ '\\n' -}}
    {%- if message.role == 'assistant' -%}
        {%- generation -%}{{- message.content ~ '<|im_end|>' -}}{%- endgeneration -%}{{- '\\n' -}}
    {%- else -%}
        {{- message.content ~ '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def dialogues() -> list[list[Message]]:
    """What functions and classes of some modules do, two or three of a module in a dialogue."""
    found = []
    for module in MODULES:
        tree = ast.parse((LIBRARY / f"{module}.py").read_text(encoding="utf-8"))
        known = [
            (f"What does {module}.{node.name} do?", ast.get_docstring(node))
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        ]
        told = [(asked, text.split("\n\n")[0]) for asked, text in known if text]
        for at in range(0, len(told), 3):
            head = [Message("system", "Be short.")] if at % 2 else []
            turns = [
                Message(role, text)
                for pair in told[at : at + 3]
                for role, text in zip(("user", "assistant"), pair, strict=True)
            ]
            found.append([*head, *turns])
    return found


def write_dialogues(folder: Path, given: list[list[Message]] | None = None, **settings: Any) -> Path:
    """A dataset of them."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.parent / f"{folder.name}.jsonl"
    lines = [{"messages": [vars(message) for message in messages]} for messages in given or dialogues()]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    execute(plan([file], DialogueSettings(**{"heldout_fraction": 0.2, **settings})), folder, Silent())
    return folder


def write_chat_base(folder: Path, template: str | None = CHATML) -> Path:
    """A checkpoint as `write_base` writes it, whose tokenizer has ChatML's tokens, and which brings a template."""
    folder.mkdir()
    train_tokenizer(library_texts(TRAIN), SHAPE, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    if template is not None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    make_model(SHAPE, folder)
    return folder
