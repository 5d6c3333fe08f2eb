import subprocess
import sys
from pathlib import Path

import pytest

from toolchain.contracts import architectures, fim
from toolchain.contracts.errors import ArtifactError, FimTokenError, UnsupportedArchitecture

STARCODER = {
    "model_type": "gpt_bigcode",
    "n_layer": 40,
    "n_embd": 6144,
    "n_head": 48,
    "n_inner": 24576,
    "n_positions": 8192,
    "vocab_size": 49152,
    "unknown_key": 1,
}
LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "vocab_size": 500,
}


def test_parameters_of_starcoder() -> None:
    facts = architectures.from_config(STARCODER)
    # 15,627,884,544 with a LoRA of 110,428,160, as PEFT counts them.
    assert facts.parameters == 15_627_884_544 - 110_428_160
    assert (facts.kv_heads, facts.head_size) == (1, 128)
    assert facts.config["unknown_key"] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "mamba"},
        {"model_type": ["gpt_bigcode"]},
        {"multi_query": False},
        {"activation_function": "relu"},
        {"n_head": 47},
        {"n_positions": 10**12},
        {"layer_norm_epsilon": "small"},
        {"layer_norm_epsilon": -1},
        {"layer_norm_epsilon": float("nan")},
    ],
)
def test_variants_that_are_not_supported(change: dict[str, object]) -> None:
    with pytest.raises(UnsupportedArchitecture):
        architectures.from_config(STARCODER | change)


@pytest.mark.parametrize("change", [{"rope_theta": float("nan")}, {"rope_theta": "a"}, {"rope_scaling": [1]}])
def test_rotary_positions_that_are_no_numbers(change: dict[str, object]) -> None:
    with pytest.raises(UnsupportedArchitecture):
        architectures.from_config(LLAMA | change)


def test_json_that_is_nested_too_deep_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ArtifactError, match="cannot be read"):
        architectures.read(tmp_path)


def test_fim_is_detected_by_name_and_loudly() -> None:
    names = {name: number for number, name in enumerate(fim.STARCODER.control_tokens)}
    assert fim.detect(names.get) == fim.STARCODER
    ids = fim.resolve(fim.STARCODER, names.get)
    assert ids.arrange("psm", [9], [8]) == [ids.prefix, 9, ids.suffix, 8, ids.middle]
    assert ids.arrange("spm", [9], [8]) == [ids.prefix, ids.suffix, 8, ids.middle, 9]
    del names["<fim_suffix>"]
    with pytest.raises(FimTokenError, match=r"lacks the FIM token.s. <fim_suffix>"):
        fim.detect(names.get)


def test_help_loads_no_heavy_library() -> None:
    heavy = ("torch", "transformers", "datasets", "tvm", "numpy", "pydantic", "rich")
    code = f"import sys, toolchain.commands; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
