"""Conversion as a whole: right bytes from every kind of checkpoint, damage refused, interruptions survived."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from compile import tensor_cache, weights
from compile.schemes import SCHEMES
from tests.compile.conftest import CheckpointOf
from tests.compile.group_quantization import quantized
from tests.compile.test_tensor_cache import content, read
from toolchain.contracts import architectures
from toolchain.contracts.errors import ArtifactError, StageError
from toolchain.contracts.progress import Silent

pytestmark = pytest.mark.compile
Tensors = dict[str, np.ndarray]
DTYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "BF16": ml_dtypes.bfloat16}
# Neither 72 nor 500 is a multiple of the group.
CONFIG = {
    "model_type": "gpt_bigcode",
    "vocab_size": 300,
    "n_positions": 50,
    "n_embd": 72,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 500,
}


class Recording(Silent):
    """A listener that remembers."""

    def __init__(self) -> None:
        self.total, self.unit, self.steps, self.finished = 0, "", list[int](), False

    def start(self, title: str, total: int | None = None, unit: str = "") -> None:
        self.total, self.unit = total or 0, unit

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.steps.append(amount)

    def finish(self) -> None:
        self.finished = True


class Killing(Silent):
    """A listener that kills its process once so many bytes are done, or when all are."""

    def __init__(self, after: float) -> None:
        self.after, self.left = after, 0.0

    def start(self, title: str, total: int | None = None, unit: str = "") -> None:
        self.left = self.after * (total or 0)

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.left -= amount
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def finish(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def draw(tied: bool = True, seed: int = 0) -> Tensors:
    """A GPTBigCode checkpoint of CONFIG."""
    facts = architectures.from_config(CONFIG | {"tie_word_embeddings": tied})
    random = np.random.default_rng(seed)
    shapes = weights.FAMILIES[facts.family].weight_shapes(facts)
    tensors = {name: random.standard_normal(shape) * 0.1 for name, shape in shapes.items()}
    if tied:
        del tensors["lm_head.weight"]
    return tensors


def save(folder: Path, tensors: Tensors, dtype: str = "F32", shards: int = 1, tied: bool = True) -> Path:
    """Write a checkpoint in safetensors, the format restated."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | {"tie_word_embeddings": tied}), encoding="utf-8")
    where = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors" if shards > 1 else "model.safetensors"
        header, data = {}, b""
        for name in list(tensors)[number::shards]:
            with np.errstate(over="ignore"):
                raw = tensors[name].astype(DTYPES[dtype]).tobytes()
            header[name] = {
                "dtype": dtype,
                "shape": tensors[name].shape,
                "data_offsets": [len(data), len(data) + len(raw)],
            }
            data, where[name] = data + raw, file
        text = json.dumps(header).encode()
        (folder / file).write_bytes(len(text).to_bytes(8, "little") + text + data)
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}), encoding="utf-8")
    return folder


def convert(source: Path, scheme: str, out: Path, progress: Any = None, work: Path | None = None) -> Path:
    out.mkdir()
    weights.convert(source, architectures.read(source), SCHEMES[scheme], out, progress or Silent(), work)
    return out


def in_small_pieces() -> None:
    """Shards and blocks so small that a tiny checkpoint has many."""
    tensor_cache.SHARD_BYTES, weights.BLOCK_WEIGHTS = 8 << 10, 1 << 10


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((tensor_cache, "SHARD_BYTES"), (weights, "BLOCK_WEIGHTS")):
        monkeypatch.setattr(module, name, getattr(module, name))
    in_small_pieces()


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


def index(out: Path) -> dict[str, Any]:
    return json.loads((out / tensor_cache.INDEX).read_text(encoding="utf-8"))


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
    ("value", "dtype", "scheme"),
    [
        (np.nan, "F32", "q4f16_1"),
        (-np.inf, "BF16", "q8f32_1"),
        (65520.0, "F32", "q4f16_1"),
        (1e5, "BF16", "q0f16"),
        (1e39, "F64", "q4f32_1"),
    ],
)
@pytest.mark.parametrize("name", ["transformer.h.1.mlp.c_fc.weight", "transformer.h.1.ln_1.bias"])
def test_what_the_scheme_cannot_hold_is_named(name: str, value: float, dtype: str, scheme: str, tmp_path: Path) -> None:
    tensors, work = draw(), tmp_path / "work"
    tensors[name].flat[-1] = value
    source = save(tmp_path / "source", tensors, dtype)
    with pytest.raises(ArtifactError, match=f"{name} in .*model.safetensors holds NaN or values beyond"):
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


def test_shapes_that_do_not_fit_together_are_named(checkpoint_of: CheckpointOf, tmp_path: Path) -> None:
    source = Path(shutil.copytree(checkpoint_of("llama"), tmp_path / "source"))
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (source / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 4}), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"q_proj.weight, .*k_proj.weight, .* in .* have the shapes .*together"):
        convert(source, "q4f16_1", tmp_path / "out")


# A full disk


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel refuses to let any file of this process grow beyond `size` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("small_pieces")
def test_a_quota_leaves_nothing_half_written_and_what_is_whole_for_later(tmp_path: Path) -> None:
    source, work = save(tmp_path / "source", draw()), tmp_path / "work"
    with files_of_at_most(20_000), pytest.raises(StageError, match="is full, or a quota on it is"):
        convert(source, "q4f16_1", tmp_path / "out", work=work)
    assert list((tmp_path / "out").iterdir()) == []
    whole = [path.name for path in work.rglob("*.bin*")]
    assert whole
    assert not any(name.endswith(".part") for name in whole)
    shutil.rmtree(tmp_path / "out")
    resumed = Recording()
    again = convert(source, "q4f16_1", tmp_path / "out", resumed, work)
    assert resumed.steps[0] > 0
    assert content(again) == content(convert(source, "q4f16_1", tmp_path / "at once"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs the rights to")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_too_small_is_named_before_any_work(small_disk: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "source", draw())
    (small_disk / "other").write_bytes(bytes(960 << 10))
    with pytest.raises(StageError, match=f"the disk at {small_disk} has 0 MB free, the weights need 1 MB"):
        convert(source, "q0f32", small_disk / "out", work=small_disk / "work")
    assert [path.name for path in small_disk.rglob("*") if path.is_file()] == ["other"]


@pytest.mark.usefixtures("small_pieces")
def test_a_disk_that_fills_up_is_named_and_left_clean(small_disk: Path, tmp_path: Path) -> None:
    class Filling(Silent):
        def start(self, title: str, total: int | None = None, unit: str = "") -> None:
            (small_disk / "other").write_bytes(bytes(960 << 10))

    source = save(tmp_path / "source", draw())
    with pytest.raises(StageError, match=rf"the disk at {small_disk} is full.*\(No space left on device\)"):
        convert(source, "q0f32", small_disk / "out", Filling(), small_disk / "work")
    assert list(small_disk.rglob("*.part")) == list((small_disk / "out").iterdir()) == []


# Interruptions


def convert_until_killed(source: Path, out: Path, work: Path, after: float) -> None:
    in_small_pieces()
    convert(source, "q4f16_1", out, Killing(after), work)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("after", [0.3, 0.8, 1.0])
def test_resumes_after_kill_9_and_skips_what_is_whole(after: float, tmp_path: Path) -> None:
    source, work = save(tmp_path / "source", draw(), "BF16", shards=2), tmp_path / "work"
    child = multiprocessing.get_context("spawn").Process(
        target=convert_until_killed, args=(source, tmp_path / "killed", work, after)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert list((tmp_path / "killed").iterdir()) == []
    whole = {p.name.rpartition(".")[0]: p.stat().st_ino for p in work.rglob("*.bin.*") if p.suffix != ".part"}
    assert whole

    resumed = Recording()
    out = convert(source, "q4f16_1", tmp_path / "resumed", resumed, work)
    at_once = convert(source, "q4f16_1", tmp_path / "at once")
    assert content(out) == content(at_once)
    assert {name: (out / name).stat().st_ino for name in whole} == whole
    assert sum(resumed.steps) == resumed.total
    assert resumed.steps[0] > (after - 0.3) * resumed.total
    if after == 1.0:
        assert resumed.steps == [resumed.total]


@pytest.mark.usefixtures("small_pieces")
def test_resumption_recomputes_only_the_tensors_of_missing_shards(tmp_path: Path) -> None:
    source, work = save(tmp_path / "source", draw()), tmp_path / "work"
    out = convert(source, "q4f16_1", tmp_path / "first", work=work)
    lost = next(work.rglob("params_shard_3.bin.*"))
    lost.unlink()
    names = {record["name"] for record in index(out)["records"][3]["records"]}
    resumed = Recording()
    again = convert(source, "q4f16_1", tmp_path / "second", resumed, work)
    assert content(again) == content(out)
    sizes = {name.removesuffix("weight"): 4 * tensor.size for name, tensor in draw().items()}
    sizes["lm_head."] = sizes["transformer.wte."]
    stems = {name.removesuffix("q_weight").removesuffix("q_scale").removesuffix("weight") for name in names}
    assert sum(resumed.steps[1:]) == sum(sizes[stem] for stem in stems)


def test_work_of_another_scheme_or_checkpoint_is_discarded(tmp_path: Path) -> None:
    source, work = save(tmp_path / "source", draw()), tmp_path / "work"

    def made(scheme: str, name: str) -> tuple[dict[str, bytes], int, list[Path]]:
        progress = Recording()
        out = convert(source, scheme, tmp_path / name, progress, work)
        return content(out), progress.steps[0], list(work.iterdir())

    (work / "something").mkdir(parents=True)
    (work / "notes").touch()
    first, _, [folder] = made("q4f16_1", "first")
    size = 4 * (sum(tensor.size for tensor in draw().values()) + draw()["transformer.wte.weight"].size)
    assert made("q4f16_1", "same") == (first, size, [folder])
    other, done, [other_folder] = made("q8f16_1", "other scheme")
    assert (done, other_folder == folder) == (0, False)
    assert other != first
    again, done, [folder] = made("q4f16_1", "first scheme")
    assert (again, done) == (first, 0)
    shutil.rmtree(source)
    save(source, draw(seed=1))
    changed, done, [changed_folder] = made("q4f16_1", "other weights")
    assert (done, changed_folder == folder) == (0, False)
    assert changed != first


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
