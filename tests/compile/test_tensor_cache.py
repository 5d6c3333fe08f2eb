from pathlib import Path

import numpy as np
import pytest

from compile import tensor_cache
from toolchain.contracts import tensor_cache as stored
from toolchain.contracts.errors import ArtifactError

pytestmark = pytest.mark.compile
MIB = 1 << 20


def sized(*mebibytes: float) -> list[tuple[str, np.ndarray]]:
    draw = np.random.default_rng(0)
    return [
        (f"t{n}", draw.integers(0, 2**32, size=(4, int(size * MIB) // 16), dtype=np.uint32))
        for n, size in enumerate(mebibytes)
    ]


@pytest.mark.parametrize("sizes", [(1, 2), (20, 11.5, 3), (20, 16, 4, 40, 5), (32,), (15, 17, 1), (31, 1, 1)])
def test_files_equal_those_of_tvm(sizes: tuple[float, ...], tmp_path: Path) -> None:
    from tvm.contrib import tvmjs

    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    named = [*sized(*sizes), ("half", np.ones(3, np.float16))]
    metadata = {"ParamSize": len(named), "ParamBytes": 1.0, "BitsPerParam": 4.5}
    tensor_cache.write(ours, named, metadata)
    tvmjs.dump_tensor_cache(iter(named), str(theirs), meta_data=metadata, show_progress=False)
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in theirs.iterdir())
    for path in ours.iterdir():
        assert path.read_bytes() == (theirs / path.name).read_bytes(), path.name


def test_reads_back(tmp_path: Path) -> None:
    named = [*sized(1, 40), ("float", np.arange(5, dtype=np.float32))]
    tensor_cache.write(tmp_path, named, {})
    read = {
        name: np.memmap(place.file, place.dtype, "r", place.offset, place.shape)
        for name, place in stored.read(tmp_path).items()
    }
    assert read.keys() == {name for name, _ in named}
    assert all(np.array_equal(read[name], tensor) for name, tensor in named)


@pytest.mark.parametrize(
    ("find", "replace"),
    [('"params_shard_0.bin"', '"../params_shard_0.bin"'), ('"nbytes": 1048576', '"nbytes": 1'), ("{", "[")],
)
def test_refuses_a_bad_index(find: str, replace: str, tmp_path: Path) -> None:
    tensor_cache.write(tmp_path, sized(1), {})
    path = tmp_path / tensor_cache.INDEX
    path.write_text(path.read_text(encoding="utf-8").replace(find, replace), encoding="utf-8")
    with pytest.raises(ArtifactError):
        stored.read(tmp_path)


def test_refuses_a_truncated_shard(tmp_path: Path) -> None:
    tensor_cache.write(tmp_path, sized(1), {})
    shard = tmp_path / "params_shard_0.bin"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="its index says"):
        stored.read(tmp_path)
