"""MLC's weight files: the layout against TVM's own writer, filling in any order, and what a reader makes of them."""

from __future__ import annotations

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compile import tensor_cache
from compile.tensor_cache import ShardFolder
from toolchain.contracts import tensor_cache as reader
from toolchain.contracts.errors import ArtifactError

pytestmark = pytest.mark.compile
MIB = 1 << 20
Named = list[tuple[str, np.ndarray]]


def sized(*mebibytes: float) -> Named:
    draw = np.random.default_rng(0)
    return [
        (f"t{n}", draw.integers(0, 2**32, size=(4, int(size * MIB) // 16), dtype=np.uint32))
        for n, size in enumerate(mebibytes)
    ]


def opened(work: Path, named: Named) -> ShardFolder:
    work.mkdir(exist_ok=True)
    return ShardFolder(work, tensor_cache.plan((name, tensor.shape, tensor.dtype.name) for name, tensor in named))


def fill(files: ShardFolder, named: Named, only: set[str] | None = None) -> None:
    """Write what is missing, row by row, in no order, by four threads."""
    tensors = dict(named)
    pieces = [
        (shard, record.offset + row * (record.nbytes // len(tensors[record.name])), tensors[record.name][row : row + 1])
        for shard in files.shards
        if not files.is_whole(shard) and (only is None or shard.file in only)
        for record in shard.records
        for row in range(len(tensors[record.name]))
    ]
    random.Random(0).shuffle(pieces)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda piece: files.write(*piece), pieces))


def write(folder: Path, named: Named, metadata: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    files = opened(folder.parent / f"{folder.name}.work", named)
    fill(files, named)
    files.publish(folder, metadata)


def read(folder: Path) -> dict[str, np.ndarray]:
    return {
        name: np.memmap(stored.file, stored.dtype, "r", stored.offset, stored.shape)
        for name, stored in reader.read(folder).items()
    }


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# The cut comes at 32 MiB: reached, passed, passed by one tensor of half that size or more, and by one of less.
@pytest.mark.parametrize(
    "sizes",
    [(1, 2), (20, 11.5, 3), (20, 16, 4, 40, 5), (32,), (15, 17, 1), (31, 1, 1), (16, 16), (20, 15, 1), (40, 1, 50)],
)
def test_files_equal_those_of_tvm(sizes: tuple[float, ...], tmp_path: Path) -> None:
    from tvm.contrib import tvmjs

    named = [*sized(*sizes), ("half", np.ones(3, np.float16))]
    metadata = {"ParamSize": len(named), "ParamBytes": 1.0, "BitsPerParam": 4.5}
    write(tmp_path / "ours", named, metadata)
    tvmjs.dump_tensor_cache(iter(named), str(tmp_path / "theirs"), meta_data=metadata, show_progress=False)
    ours, theirs = content(tmp_path / "ours"), content(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_reads_back(tmp_path: Path) -> None:
    named = [*sized(1, 40), ("float", np.arange(5, dtype=np.float32))]
    write(tmp_path / "out", named, {})
    found = read(tmp_path / "out")
    assert found.keys() == {name for name, _ in named}
    assert all(np.array_equal(found[name], tensor) for name, tensor in named)


def test_tvms_readers_take_float32_as_it_is(tmp_path: Path) -> None:
    """The one thing that we write otherwise than MLC: its readers, in Python and in C++, must know it."""
    import tvm
    from tvm.contrib import tvmjs

    named = [("float", np.random.default_rng(0).standard_normal((7, 33), np.float32)), ("half", np.ones(3, np.float16))]
    write(tmp_path / "out", named, {"ParamSize": 2})
    in_python, metadata = tvmjs.load_tensor_cache(str(tmp_path / "out"), tvm.cpu())
    assert metadata == {"ParamSize": 2}
    tvm.get_global_func("vm.builtin.tensor_cache.load")(str(tmp_path / "out"), int(tvm.cpu().dlpack_device_type()), 0)
    for name, tensor in named:
        in_cpp = tvm.get_global_func("vm.builtin.tensor_cache.get")(name)
        assert in_python[name].numpy().tobytes() == in_cpp.numpy().tobytes() == tensor.tobytes()
    tvm.get_global_func("vm.builtin.tensor_cache.clear")()


def test_whole_shards_outlive_an_interruption(tmp_path: Path) -> None:
    named, work = sized(20, 13, 40, 1), tmp_path / "work"
    first = opened(work, named)
    assert [len(shard.records) for shard in first.shards] == [1, 1, 2]
    fill(first, named, only={"params_shard_0.bin", "params_shard_1.bin"})
    first.write(first.shards[2], 0, named[1][1][:1])  # and there it ends, as if killed
    whole = {path.name: path.stat().st_ino for path in work.iterdir() if not path.name.endswith(".part")}
    assert len(whole) == 2

    second = opened(work, named)
    assert [second.is_whole(shard) for shard in second.shards] == [True, True, False]
    assert second.missing_bytes == second.shards[2].nbytes
    fill(second, named)
    assert all((work / name).stat().st_ino == inode for name, inode in whole.items())
    (tmp_path / "out").mkdir()
    second.publish(tmp_path / "out", {})
    write(tmp_path / "at once", named, {})
    assert content(tmp_path / "out") == content(tmp_path / "at once")


def test_published_shards_can_be_published_again(tmp_path: Path) -> None:
    """What was made of them can be lost to an interruption later on."""
    named, work = sized(1, 40), tmp_path / "work"
    fill(opened(work, named), named)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        files = opened(work, named)
        assert files.missing_bytes == 0
        files.publish(tmp_path / name, {})
    assert content(tmp_path / "first") == content(tmp_path / "second")


def test_without_hard_links_shards_are_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    named = sized(1)
    monkeypatch.setattr(os, "link", refuse)
    write(tmp_path / "out", named, {})
    assert np.array_equal(read(tmp_path / "out")["t0"], named[0][1])
    assert list((tmp_path / "out.work").iterdir()) == []


def test_what_does_not_belong_in_the_folder_goes(tmp_path: Path) -> None:
    named, work = sized(1, 40), tmp_path / "work"
    fill(opened(work, named), named)
    truncated = next(path for path in work.iterdir() if "shard_0" in path.name)
    os.truncate(truncated, 100)
    (work / f"params_shard_7.bin.{'0' * 32}").touch()
    (work / "params_shard_1.bin.part").touch()
    (work / "notes").touch()
    files = opened(work, named)
    assert [files.is_whole(shard) for shard in files.shards] == [False, True]
    assert sorted(path.name.rpartition(".")[0] for path in work.iterdir()) == [
        "params_shard_0.bin",
        "params_shard_1.bin",
    ]
    files.discard_parts()
    assert len(list(work.iterdir())) == 1


def test_no_index_before_every_shard_is_there(tmp_path: Path) -> None:
    named, out = sized(1, 40), tmp_path / "out"
    out.mkdir()
    files = opened(tmp_path / "work", named)
    fill(files, named, only={"params_shard_0.bin"})
    with pytest.raises(KeyError):
        files.publish(out, {})
    assert not (out / tensor_cache.INDEX).exists()


@pytest.mark.parametrize(
    ("find", "replace"),
    [
        ('"params_shard_0.bin"', '"../params_shard_0.bin"'),
        ('"params_shard_0.bin"', '"params_shard_9.bin"'),
        ('"nbytes": 1048576', '"nbytes": 1'),
        ("{", "["),
    ],
)
def test_a_bad_index_is_refused(find: str, replace: str, tmp_path: Path) -> None:
    write(tmp_path / "out", sized(1), {})
    path = tmp_path / "out" / tensor_cache.INDEX
    path.write_text(path.read_text(encoding="utf-8").replace(find, replace), encoding="utf-8")
    with pytest.raises(ArtifactError):
        read(tmp_path / "out")


def test_a_truncated_shard_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "out", sized(1), {})
    os.truncate(tmp_path / "out" / "params_shard_0.bin", MIB - 1)
    with pytest.raises(ArtifactError, match="its index says"):
        read(tmp_path / "out")


def test_threads_that_end_a_shard_together_finish_it_once(tmp_path: Path) -> None:
    named = [(f"t{n}", np.full((8, 4), n, np.uint32)) for n in range(16)]
    for turn in range(20):
        files = opened(tmp_path / f"work{turn}", named)
        barrier = threading.Barrier(16)

        def put(record: tensor_cache.Record, files: ShardFolder = files, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            files.write(files.shards[0], record.offset, dict(named)[record.name])

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(put, files.shards[0].records))
        assert files.is_whole(files.shards[0])
