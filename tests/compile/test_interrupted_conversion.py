"""Conversion that ends early, killed or on a full disk: nothing is half-written, and what is whole is used again."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.compile.conversion import Recording, convert, draw, in_small_pieces, index, save
from tests.compile.test_tensor_cache import content
from toolchain.contracts.errors import StageError
from toolchain.contracts.progress import Silent

pytestmark = pytest.mark.compile


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
