"""Conversion as a whole: right bytes from every kind of checkpoint, damage refused, in little memory."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from compile import tensor_cache, weights
from compile.schemes import SCHEMES
from tests.compile.conftest import CheckpointOf
from tests.compile.conversion import CONFIG, DTYPES, Recording, Tensors, convert, draw, index, save
from tests.compile.group_quantization import quantized
from tests.compile.test_tensor_cache import read
from toolchain.contracts import architectures
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.progress import Silent

pytestmark = pytest.mark.compile


def expected(tensors: Tensors, scheme: str) -> Tensors:
    """What is to be stored for tensors by MLC's names."""
    found = {}
    for name, tensor in tensors.items():
        if SCHEMES[scheme].quantized and tensor.ndim == 2:
            stem = name.removesuffix("weight")
            found[stem + "q_weight"], found[stem + "q_scale"] = quantized(tensor, SCHEMES[scheme])
        else:
            found[name] = tensor.astype(SCHEMES[scheme].dtype)
    return found


def assert_stored(out: Path, wanted: Tensors) -> None:
    found = read(out)
    assert list(found) == [name for shard in index(out)["records"] for name in (r["name"] for r in shard["records"])]
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name].tobytes() != wanted[name].tobytes()] == []
    assert all(found[name].dtype == wanted[name].dtype and found[name].shape == wanted[name].shape for name in wanted)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shards", "tied"), [(1, True), (3, False)])
def test_stores_what_the_arithmetic_gives(scheme: str, dtype: str, shards: int, tied: bool, tmp_path: Path) -> None:
    tensors = draw(tied)
    source = save(tmp_path / "source", tensors, dtype, shards, tied)
    out = convert(source, scheme, tmp_path / "out")
    given = {name: tensor.astype(DTYPES[dtype]) for name, tensor in tensors.items()}
    if tied:
        given["lm_head.weight"] = given["transformer.wte.weight"]
    wanted = expected(given, scheme)
    assert_stored(out, wanted)
    size = sum(tensor.nbytes for tensor in wanted.values())
    count = sum(tensor.size for tensor in given.values())
    assert index(out)["metadata"] == {
        "ParamSize": len(wanted),
        "ParamBytes": float(size),
        "BitsPerParam": size * 8.0 / count,
    }
    assert {path.name for path in out.iterdir()} == {
        tensor_cache.INDEX,
        *(shard["dataPath"] for shard in index(out)["records"]),
    }


def test_blocks_and_shards_of_their_usual_size(tmp_path: Path) -> None:
    tensors = draw()
    out = convert(save(tmp_path / "source", tensors), "q4f16_1", tmp_path / "out")
    given = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    assert_stored(out, expected(given | {"lm_head.weight": given["transformer.wte.weight"]}, "q4f16_1"))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("scheme", ["q4f16_1", "q8f32_1", "q0f32"])
@pytest.mark.parametrize("variant", ["llama-tied-biased-scaled", "qwen2-untied", "starcoder2"])
def test_joins_what_mlc_has_as_one(variant: str, scheme: str, checkpoint_of: CheckpointOf, tmp_path: Path) -> None:
    source = checkpoint_of(variant)
    theirs = load_file(source / "model.safetensors")
    if variant != "qwen2-untied":
        theirs["lm_head.weight"] = theirs["model.embed_tokens.weight"]
    joined = {}
    for name, tensor in theirs.items():
        if ".q_proj." in name:
            rows = [theirs[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            ours = {"llama": "qkv_proj", "qwen2": "c_attn", "starcoder2": "wqkv_pack"}[variant.split("-")[0]]
            joined[name.replace("q_proj", ours)] = np.concatenate(rows)
        elif ".gate_proj." in name:
            joined[name.replace("gate_proj", "gate_up_proj")] = np.concatenate(
                [tensor, theirs[name.replace("gate_proj", "up_proj")]]
            )
        elif not any(part in name for part in (".k_proj.", ".v_proj.", ".up_proj.")):
            joined[name] = tensor
    if variant.startswith("llama"):
        del joined["lm_head.weight"]  # MLC's Llama has none when it is tied
    assert_stored(convert(source, scheme, tmp_path / "out"), expected(joined, scheme))


def test_progress_counts_the_bytes_that_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "BLOCK_WEIGHTS", 1 << 10)
    tensors, progress = draw(), Recording()
    convert(save(tmp_path / "source", tensors), "q4f16_1", tmp_path / "out", progress)
    head = tensors["transformer.wte.weight"].size
    assert progress.total == sum(progress.steps) == 4 * (sum(tensor.size for tensor in tensors.values()) + head)
    assert progress.unit == "bytes"
    assert max(progress.steps) <= 4 << 10
    assert progress.finished


# Damage


@pytest.mark.parametrize(
    ("value", "dtype", "scheme", "told"),
    [
        (np.nan, "F32", "q4f16_1", "NaN or infinity"),
        (-np.inf, "BF16", "q8f32_1", "NaN or infinity"),
        (65520.0, "F32", "q4f16_1", "values beyond float16. Use --quantization q4f32_1"),
        (1e5, "BF16", "q0f16", "values beyond float16. Use --quantization q0f32"),
        (1e39, "F64", "q4f32_1", "values beyond float32. Train or merge again"),
    ],
)
@pytest.mark.parametrize("name", ["transformer.h.1.mlp.c_fc.weight", "transformer.h.1.ln_1.bias"])
def test_what_the_scheme_cannot_hold_is_named(
    name: str, value: float, dtype: str, scheme: str, told: str, tmp_path: Path
) -> None:
    tensors, work = draw(), tmp_path / "work"
    tensors[name].flat[-1] = value
    source = save(tmp_path / "source", tensors, dtype)
    with pytest.raises(ArtifactError, match=f"{name} in .*model.safetensors holds {told}"):
        convert(source, scheme, tmp_path / "out", work=work)
    assert list((tmp_path / "out").iterdir()) == []
    assert list(work.rglob("*.part")) == []


def test_values_beyond_float16_fit_in_float32(tmp_path: Path) -> None:
    tensors = draw()
    tensors["transformer.wpe.weight"][3, 3] = 1e5
    source = save(tmp_path / "source", tensors, "BF16")
    assert np.isfinite(read(convert(source, "q4f32_1", tmp_path / "out"))["transformer.wpe.q_scale"]).all()


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole", draw(), shards=2)
    first, second = sorted(whole.glob("*.safetensors"))

    def copy(name: str) -> Path:
        return Path(shutil.copytree(whole, tmp_path / name))

    truncated = copy("truncated")
    os.truncate(truncated / first.name, first.stat().st_size - 1)
    with pytest.raises(ArtifactError, match="truncated or damaged"):
        convert(truncated, "q4f16_1", tmp_path / "out 1")
    lacking = copy("lacking")
    (lacking / second.name).unlink()
    with pytest.raises(ArtifactError, match=f"lacks the shard {second.name}"):
        convert(lacking, "q4f16_1", tmp_path / "out 2")
    climbing = copy("climbing")
    path = climbing / "model.safetensors.index.json"
    path.write_text(path.read_text(encoding="utf-8").replace(first.name, f"../whole/{first.name}"), encoding="utf-8")
    with pytest.raises(ArtifactError, match="outside its folder"):
        convert(climbing, "q4f16_1", tmp_path / "out 3")


def test_missing_tensors_and_wrong_shapes_are_named(tmp_path: Path) -> None:
    tensors = draw()
    bias = tensors.pop("transformer.h.0.mlp.c_fc.bias")
    with pytest.raises(ArtifactError, match=r"lacks 1 tensor\(s\), the first is transformer.h.0.mlp.c_fc.bias"):
        convert(save(tmp_path / "lacking", tensors), "q4f16_1", tmp_path / "out 1")
    for number, other in enumerate((bias[:-1], bias[None], bias[0])):
        source = save(tmp_path / f"wrong {number}", tensors | {"transformer.h.0.mlp.c_fc.bias": np.asarray(other)})
        with pytest.raises(ArtifactError, match=r"c_fc.bias in .* has the shape .*its config.json says \(500,\)"):
            convert(source, "q4f16_1", tmp_path / f"out 2 {number}")


def test_a_layer_beyond_the_configs_is_not_dropped_in_silence(tmp_path: Path) -> None:
    tensors = draw()
    bias = tensors["transformer.h.0.mlp.c_fc.bias"]
    buffers = {"transformer.h.0.attn.bias": bias, "some.other": bias}
    convert(save(tmp_path / "buffers", tensors | buffers), "q4f16_1", tmp_path / "out 1")
    source = save(tmp_path / "more", tensors | {"transformer.h.9.mlp.c_fc.bias": bias})
    with pytest.raises(ArtifactError, match=r"holds transformer.h.9.mlp.c_fc.bias, beyond the 2 layers of its config"):
        convert(source, "q4f16_1", tmp_path / "out 2")


def test_shapes_that_do_not_fit_together_are_named(checkpoint_of: CheckpointOf, tmp_path: Path) -> None:
    source = Path(shutil.copytree(checkpoint_of("llama"), tmp_path / "source"))
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (source / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 4}), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"q_proj.weight, .*k_proj.weight, .* in .* have the shapes .*together"):
        convert(source, "q4f16_1", tmp_path / "out")


# Memory


def anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of a process's memory")
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """A checkpoint of 900 MB in float16, all holes, whose two largest tensors have 200 MB each."""
    config = CONFIG | {"vocab_size": 49152, "n_positions": 8192, "n_embd": 2048, "n_layer": 6, "n_inner": 8192}
    facts = architectures.from_config(config | {"tie_word_embeddings": False})
    header, end = {}, 0
    for name, shape in weights.FAMILIES[facts.family].weight_shapes(facts).items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)

    class Watching(Silent):
        peak = 0

        def advance(self, amount: int = 1, note: str = "") -> None:
            self.peak = max(self.peak, anonymous_bytes())

    (tmp_path / "out").mkdir()
    before, watching = anonymous_bytes(), Watching()
    weights.convert(tmp_path, facts, SCHEMES["q4f16_1"], tmp_path / "out", watching)
    assert index(tmp_path / "out")["metadata"]["ParamBytes"] == pytest.approx(end * 9 / 32, rel=0.01)
    assert watching.peak - before < 100e6
