"""A bundle that is whole opens; one that is not says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from serve.backends.native import Native
from serve.bundle import Bundle, open_bundle
from serve.engine.engine import Engine
from serve.engine.sampling import Sampling
from tests.serve.conftest import LIBRARY, write_bundle
from tests.serve.scripted import ScriptedRunner, any_tokens
from toolchain.contracts.errors import ArtifactError, FimTokenError
from toolchain.contracts.fim import QWEN_CODER, STARCODER
from toolchain.contracts.targets import parse_target

HERE = parse_target("cpu").name


def test_what_a_bundle_says(bundle: Bundle) -> None:
    assert (bundle.name, bundle.context_size, bundle.max_tokens, bundle.prefill_chunk) == ("tiny", 256, 64, 32)
    assert bundle.spec == STARCODER
    assert bundle.sampling == Sampling(0.2, 0.95)
    assert bundle.libraries == ((parse_target("cpu"), bundle.folder / LIBRARY),)
    # `<filename>` is no FIM token, and no text of a completion either.
    assert bundle.end_ids == bundle.ids.control | {bundle.tokenizer.token_to_id("<filename>")}


def test_a_tokenizer_that_shortens_or_pads_is_kept_from_it(trained: Tokenizer, tmp_path: Path) -> None:
    other = Tokenizer.from_str(trained.to_str())
    other.enable_truncation(3)
    other.enable_padding(length=50)
    opened = open_bundle(write_bundle(tmp_path / "short", other))
    text = "def add(first, second): return first + second"
    assert opened.tokenizer.decode(opened.tokenizer.encode(text).ids) == text


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"fim": {"prefix": "<fim_prefix>"}}, "cannot be read"),
        ({"fim": None}, "cannot be read"),
        ({"targets": {}}, "has no library for this machine"),
        ({"targets": None}, "cannot be read"),
        ({"targets": {HERE: {}}}, "cannot be read"),
        ({"targets": {HERE: "gone.a"}}, "is missing"),
        ({"targets": {HERE: "../other.a"}}, "outside"),
        ({"targets": {HERE: "/etc/passwd"}}, "outside"),
        ({"context_size": "many"}, "cannot be read"),
        ({"context_size": 4}, "no room"),
    ],
)
def test_facts_that_cannot_be_served(
    trained: Tokenizer, tmp_path: Path, facts: dict[str, object], message: str
) -> None:
    folder = write_bundle(tmp_path / "bad", trained, facts=facts)
    with pytest.raises(ArtifactError, match=message) as caught:
        open_bundle(folder)
    assert caught.value.next_step


@pytest.mark.parametrize(
    "chat", [{"max_gen_len": 0}, {"prefill_chunk_size": -1}, {"top_p": None}, {"temperature": "x"}]
)
def test_a_chat_config_that_cannot_be_served(trained: Tokenizer, tmp_path: Path, chat: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError):
        open_bundle(write_bundle(tmp_path / "bad", trained, chat=chat))


@pytest.mark.parametrize("name", ["mlc-chat-config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", "\xff"])
def test_files_that_are_missing_or_broken(trained: Tokenizer, tmp_path: Path, name: str, content: str | None) -> None:
    path = write_bundle(tmp_path / "bad", trained) / "params" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ArtifactError) as caught:
        open_bundle(tmp_path / "bad")
    assert caught.value.next_step


def test_a_tokenizer_behind_a_link_that_leaves_the_bundle(trained: Tokenizer, tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "bad", trained) / "params" / "tokenizer.json"
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ArtifactError, match="outside"):
        open_bundle(tmp_path / "bad")


def test_a_tokenizer_of_another_family(trained: Tokenizer, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "other", trained, spec=QWEN_CODER)
    with pytest.raises(FimTokenError, match=r"fim_prefix"):
        open_bundle(folder)


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        open_bundle(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "dataset"}))
    with pytest.raises(ArtifactError):
        open_bundle(tmp_path)


def test_a_model_that_knows_fewer_tokens_than_its_tokenizer(bundle: Bundle) -> None:
    with pytest.raises(ArtifactError, match="tokens, and its model knows 5"):
        Native(Engine(ScriptedRunner(5, any_tokens)), bundle)
