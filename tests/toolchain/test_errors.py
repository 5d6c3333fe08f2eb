"""What a user sees when the input cannot be used: one line with the next step, exit code 2, no traceback."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.toolchain.conftest import Fimble
from tests.train.data.repositories import module, write_files
from toolchain.contracts import manifest
from toolchain.contracts.fim import STARCODER

pytestmark = [pytest.mark.train, pytest.mark.compile]


def test_no_such_repository(fimble: Fimble) -> None:
    fimble("up", "nowhere", "--no-serve").refused("nowhere")


def test_unknown_target(fimble: Fimble, tmp_path: Path) -> None:
    fimble("up", tmp_path, "--target", "gpu", "--no-serve").refused("unknown target 'gpu'", "cpu")


def test_unsupported_architecture_and_missing_tokens(fimble: Fimble, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (base / "config.json").write_text(json.dumps({"model_type": "mamba"}), encoding="utf-8")
    fimble("compile", base, "--out", tmp_path / "out").refused("mamba", "Supported: gpt_bigcode")
    shape = {"model_type": "gpt_bigcode", "vocab_size": 64, "n_embd": 64, "n_layer": 1, "n_head": 1, "n_positions": 64}
    (base / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    (base / "tokenizer.json").write_text(tokenizer_without_fim(), encoding="utf-8")
    fimble("compile", base, "--out", tmp_path / "out").refused("<fim_prefix>", "base")


def tokenizer_without_fim() -> str:
    from tokenizers import Tokenizer, models

    text: str = Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).to_str()
    return text


def test_busy_port(fimble: Fimble, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    make_bundle(bundle)
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        fimble("serve", bundle, "--port", port).refused(f"port {port}", "--port")


def make_bundle(folder: Path) -> None:
    """A bundle whole enough to be opened; the port is told before its library is loaded."""
    from tokenizers import Tokenizer, models

    (folder / "params").mkdir(parents=True)
    (folder / "model.so").write_bytes(b"")
    tokenizer = Tokenizer(models.BPE(vocab={name: n for n, name in enumerate(STARCODER.control_tokens)}, merges=[]))
    tokenizer.save(str(folder / "params" / "tokenizer.json"))
    chat = {"temperature": 0.2, "top_p": 0.95, "max_gen_len": 64, "prefill_chunk_size": 128}
    (folder / "params" / "mlc-chat-config.json").write_text(json.dumps(chat), encoding="utf-8")
    facts = {"name": "m", "context_size": 64, "fim": STARCODER.to_json(), "targets": {"cpu": {"library": "model.so"}}}
    manifest.seal(folder, kind="bundle", recipe=1, parents=[], settings={}, facts=facts)


def test_unknown_key_in_the_settings_file(fimble: Fimble, tmp_path: Path) -> None:
    (tmp_path / "fimble.toml").write_text("[train]\nmax-stepps = 3\n", encoding="utf-8")
    fimble("up", tmp_path, "--no-serve").refused("max-stepps", "Did you mean 'max_steps'?")
    (tmp_path / "fimble.toml").write_text("[trian]\n", encoding="utf-8")
    fimble("up", tmp_path, "--no-serve").refused("trian", "Did you mean 'train'?")


def test_settings_of_a_later_stage_are_checked_before_the_first(fimble: Fimble, tmp_path: Path) -> None:
    for table, key in (("serve", "port"), ("scratch", "layers")):
        (tmp_path / "fimble.toml").write_text(f"[{table}]\n{key} = -1\n", encoding="utf-8")
        fimble("up", tmp_path, "--out", tmp_path / "work").refused(key)
    assert not (tmp_path / "work").exists()


def test_the_base_scratch_takes_the_flags_that_mean_the_same_and_refuses_the_others(
    fimble: Fimble, tmp_path: Path
) -> None:
    from tests.train.tiny import library_texts, write_dataset

    dataset = write_dataset(tmp_path / "data", library_texts(("shlex.py",)), library_texts(("bisect.py",)))
    (tmp_path / "fimble.toml").write_text(
        "[scratch]\nvocabulary = 512\nhidden-size = 64\nlayers = 1\ncontext-size = 64\n", encoding="utf-8"
    )
    line = ("train", dataset, "--base", "scratch", "--out", tmp_path / "grown")
    fimble(*line, "--max-steps", 1, "--method", "lora").refused("--method has no effect with --base scratch", "layers")
    fimble(*line, "--max-steps", 0).refused("--max-steps cannot be 0")
    done = fimble(*line, "--max-steps", 1, "--seed", 99)
    assert done.code == 0, done.err
    made = manifest.read(tmp_path / "grown")
    assert (made.facts["steps"], made.settings["seed"], made.settings["layers"]) == (1, 99, 1)


def test_wrong_kind_of_folder(fimble: Fimble, tmp_path: Path) -> None:
    fimble("serve", tmp_path).refused("is not a bundle")
    fimble("inspect", tmp_path / "none").refused("does not exist")


def test_a_base_that_is_nowhere(fimble: Fimble, tmp_path: Path) -> None:
    fimble("compile", "./nowhere", "--out", tmp_path / "out").refused("nowhere")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with enough to make a dataset of."""
    return write_files(tmp_path / "source", {f"{topic}.py": module(topic) for topic in ("alpha", "beta", "gamma")})


def test_a_file_where_a_folder_should_go(fimble: Fimble, source: Path, tmp_path: Path) -> None:
    (tmp_path / "afile").write_text("", encoding="utf-8")
    fimble("collect", source, "--out", "afile/x").refused("cannot use", "afile: File exists", "choose another", code=1)
    fimble("up", source, "--out", "afile").refused("cannot use afile: File exists", code=1)
    fimble("inspect", "afile").refused("afile is a file. Name a folder that fimble wrote.")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where no file can be made")
def test_a_folder_where_nothing_can_be_made(fimble: Fimble, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fimble("collect", source, "--out", "/proc/x").refused("cannot use /proc/", "No such file or directory", code=1)
    monkeypatch.setenv("FIMBLE_CACHE", "/proc/nope")
    fimble("collect", source, "--out", "x").refused("the cache folder /proc/nope", "FIMBLE_CACHE")


FULL = "No space left on device"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("words", [["--version"], ["plan", "--preset", "list"], ["inspect", "none", "--json"]])
def test_output_that_cannot_be_written(words: list[str]) -> None:
    command = [sys.executable, "-P", "-m", "toolchain.cli", *words]
    code = 2 if "none" in words else 1
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        silent = subprocess.run(command, stdout=full, stderr=full, check=False)
    assert (done.returncode, silent.returncode) == (code, code)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["--version"], ["plan", "--base", "bigcode/starcoder", "--gpu", "l4-24gb"]])
def test_output_that_nobody_reads_any_more(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-P", "-m", "toolchain.cli", *words]
    try:
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, FULL), Exception(f'I/O error: Os {{ message: "{FULL}" }}')])
def test_a_full_disk_is_called_that_and_no_part_stays_on_it(
    fimble: Fimble, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object) -> None:
        assert (tmp_path / ".out.partial").exists()
        raise error

    monkeypatch.setattr("train.data.collect.write_text", fail)
    done = fimble("collect", source, "--out", "out")
    assert (done.code, done.err.splitlines()[-1]) == (
        1,
        f"error: cannot write: {FULL}. Free some space there and run again.",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_full_disk_is_not_blamed_on_the_dataset(
    fimble: Fimble, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("an error occurred while generating the dataset") from OSError(errno.ENOSPC, FULL, "there")

    assert fimble("collect", source, "--out", "data").code == 0
    monkeypatch.setattr("datasets.load_dataset", fail)
    done = fimble("train", "data", "--base", "scratch", "--out", "grown")
    assert done.err.splitlines()[-1] == f"error: cannot write there: {FULL}. Free some space there and run again."
