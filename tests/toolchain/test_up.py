"""`fimble up` as a process of its own, in a folder whose modules must never be imported."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = [pytest.mark.train, pytest.mark.compile]

ROOT = Path(__file__).parents[2]
SETTINGS = """
[scratch]
vocabulary = 600
hidden-size = 64
layers = 1
context-size = 128
max-steps = 12
evaluate-sequences = 4
[train]
sequence-length = 128
max-steps = 6
batch-size = 2
evaluate-every = 3
evaluate-sequences = 4
save-every = 2
"""
RAISES = "raise RuntimeError('imported from the working folder')\n"


def hostile_project(folder: Path) -> Path:
    """A repository with modules named like ours and like the libraries that we use."""
    folder.mkdir()
    for name in (
        "train.py",
        "compile.py",
        "toolchain.py",
        "tokenizers.py",
        "torch.py",
        "tvm.py",
        "ziglang.py",
        "json.py",
    ):
        (folder / name).write_text(RAISES, encoding="utf-8")
    for name in ("serve", "datasets"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(RAISES, encoding="utf-8")
    shutil.copytree(ROOT / "toolchain", folder / "code", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "fimble.toml").write_text(SETTINGS, encoding="utf-8")
    return folder


def command(project: Path, out: Path) -> list[str]:
    fimble = Path(sys.executable).with_name("fimble")
    return [str(fimble), "up", str(project), "--out", str(out), "--no-serve", "--json"]


def up(project: Path, out: Path) -> dict[str, object]:
    done = subprocess.run(command(project, out), cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return report


def digests(out: Path) -> dict[str, str]:
    """The digest of every finished artifact, by kind and folder."""
    found = out.glob("*/*/manifest.json")
    return {str(path.parent.relative_to(out)): json.loads(path.read_text("utf-8"))["digest"] for path in found}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_project(tmp_path_factory.mktemp("user") / "project")


@pytest.fixture(scope="module")
def undisturbed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("workspace") / "out"
    report = up(project, out)
    assert [stage["stage"] for stage in report["stages"]] == ["collect", "base", "train", "merge", "compile"]
    assert all(stage["made"] for stage in report["stages"])
    assert all(Path(stage["folder"]).is_absolute() for stage in report["stages"])
    assert report["vscode"]["llm.url"] == "http://127.0.0.1:8000/generate"
    return out


def test_a_second_run_finds_everything_current(project: Path, undisturbed: Path) -> None:
    before = digests(undisturbed)
    report = up(project, undisturbed)
    assert not any(stage["made"] for stage in report["stages"])
    assert digests(undisturbed) == before
    assert len(before) == 5


def test_the_bundle_completes_serves_and_tells_its_ancestry(project: Path, undisturbed: Path) -> None:
    fimble = Path(sys.executable).with_name("fimble")
    prefix = os.fsdecode(b"def f(\xff")  # what a shell passes on need not be text
    line = [str(fimble), "complete", str(undisturbed), "--prefix", prefix, "--suffix", ")", "--json"]
    done = subprocess.run(line, cwd=project, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["generated"] >= 1
    line = [str(fimble), "serve", str(undisturbed), "--port", "0", "--json"]
    with subprocess.Popen(line, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        ready = json.loads(server.stdout.readline())
        with urllib.request.urlopen(f"{ready['url']}/health") as reply:
            assert reply.status == 200
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0
    assert ready["bundle"] == str((undisturbed / "current").resolve())
    # These settings stay right when the bundle changes.
    assert ready["vscode"]["llm.tokenizer"] == {"path": str(undisturbed / "current" / "params" / "tokenizer.json")}
    line = [str(fimble), "inspect", str(undisturbed / "current"), "--verify", "--json"]
    done = subprocess.run(line, cwd=project, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["problems"] == []
    assert report["ancestry"][0]["parents"][0]["kind"] == "adapter"


def test_a_change_makes_only_what_follows_from_it(project: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(undisturbed, out, symlinks=True)
    line = [*command(project, out), "--name", "other"]
    done = subprocess.run(line, cwd=project, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout.splitlines()[-1])
    assert [stage["stage"] for stage in report["stages"] if stage["made"]] == ["compile"]
    assert (out / "previous").resolve() != (out / "current").resolve()


def test_damage_in_the_workspace_is_mended(project: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(undisturbed, out, symlinks=True)
    for path in out.glob("dataset/*/data/train-*"):
        path.unlink()
    for path in out.glob("adapter/*/manifest.json"):
        path.write_text("{", encoding="utf-8")
    for path in [*out.glob("checkpoint/*/model.safetensors"), *out.glob("bundle/*/params/params_shard_0.bin")]:
        os.truncate(path, 10)
    assert all(stage["made"] for stage in up(project, out)["stages"])
    assert digests(out) == digests(undisturbed)


MOMENTS = {
    "training the base": "checkpoint/.*.work/*",
    "converting weights": "bundle/.*.partial/params",
    "compiling": "bundle/.*.partial/params/mlc-chat-config.json",
}


def test_killed_at_any_moment_it_ends_with_the_same_artifacts(project: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for moment, sign in MOMENTS.items():
        process = subprocess.Popen(
            command(project, out), cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
        )
        deadline = time.monotonic() + 300
        while not any(out.glob(sign)):
            assert process.poll() is None, f"up ended before {moment}"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert "bundle" not in {Path(folder).parts[0] for folder in digests(out)}, moment
    up(project, out)
    assert digests(out) == digests(undisturbed)
