"""mlc_llm's engine behind our prompts and rules.

No wheel of mlc_llm is on the package index, so a package of the same face stands in: it answers `MLCEngine` and
`completions.create` as mlc_llm's sources have them, and refuses every argument that those do not know.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from serve.backends.mlc import Mlc
from serve.backends.opening import open_backend
from serve.bundle import Bundle, open_bundle
from serve.completer import Completer
from serve.requests import CompletionRequest
from tests.serve.conftest import LIBRARY, write_bundle
from toolchain.contracts.errors import ArtifactError, MissingExtra
from toolchain.contracts.progress import Silent

PACKAGE = textwrap.dedent(
    """
    from types import SimpleNamespace as Event
    from tokenizers import Tokenizer

    class MLCEngine:
        def __init__(self, model, device="auto", *, model_lib=None, mode="local", engine_config=None):
            self.loaded = (model, device, model_lib, mode)
            self.completions, self.asked, self.aborted = self, [], 0
            self.tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")

        def create(self, *, prompt, max_tokens, temperature, top_p, seed, stream, stream_options):
            self.asked.append((prompt, max_tokens))
            return self._stream(len(prompt), max_tokens)

        def _stream(self, size, most):
            ids = self.tokenizer.encode("a + b\\n\\n\\ndef other():\\n    pass\\n").ids[:most]
            try:
                for at, id in enumerate(ids, 1):
                    yield Event(usage=None, choices=[Event(text=self.tokenizer.decode([id]), finish_reason=None)])
                reason = "length" if len(ids) == most else "stop"
                yield Event(usage=None, choices=[Event(text="", finish_reason=reason)])
                yield Event(choices=[], usage=Event(prompt_tokens=size, completion_tokens=len(ids)))
            except GeneratorExit:
                self.aborted += 1
                raise
    """
)
EDITOR = CompletionRequest("def add(a, b):\n    return ", "\n", max_tokens=20)


@pytest.fixture
def mlc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    module = tmp_path / "mlc_llm.py"
    module.write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield module
    sys.modules.pop("mlc_llm", None)


@pytest.fixture
def built(tmp_path: Path, trained: Tokenizer) -> Bundle:
    return open_bundle(write_bundle(tmp_path / "built", trained, facts={"builder": "mlc-llm"}))


@pytest.mark.usefixtures("mlc")
def test_a_bundle_that_mlc_llm_built_runs_in_its_engine(built: Bundle) -> None:
    backend = open_backend(built, None, Silent())
    assert isinstance(backend, Mlc)
    engine = backend._engine
    assert engine.loaded == (str(built.folder / "params"), "cpu", str(built.folder / LIBRARY), "interactive")
    completer = Completer(built, backend)
    done = completer.complete(EDITOR)
    assert (done.text, done.finish) == ("a + b", "stop")
    assert engine.asked == [(completer.prompt(EDITOR)[0], 20)]
    assert engine.aborted == 1  # a rule knew the end
    raw = completer.complete(CompletionRequest("x", max_tokens=200))
    assert raw.text.endswith("pass\n")
    assert raw.statistics.prefilled == raw.prompt_tokens
    assert raw.statistics.generated > raw.text.count(" ")
    assert completer.complete(CompletionRequest("x", max_tokens=2)).finish == "length"
    cut = completer.complete(CompletionRequest("x"), iter([False, False, True, True, True]).__next__)
    assert cut.finish == "cancelled"


@pytest.mark.usefixtures("mlc")
def test_any_bundle_can_be_asked_to_run_in_it(bundle: Bundle) -> None:
    backend = open_backend(bundle, "mlc-llm", Silent())
    assert isinstance(backend, Mlc)
    assert backend._engine.loaded == (str(bundle.params), "cpu", None, "interactive")


def test_without_mlc_llm(built: Bundle) -> None:
    with pytest.raises(MissingExtra, match=r"mlc_llm is not installed.*https://mlc.ai/wheels"):
        open_backend(built, None, Silent())
    with pytest.raises(ArtifactError, match=r"was compiled with mlc-llm.*without --builder"):
        open_backend(built, "fimble", Silent())


def test_what_it_cannot_load_is_told(mlc: Path, built: Bundle) -> None:
    mlc.write_text("raise ImportError('libmlc_llm.so: no such file')")
    with pytest.raises(ArtifactError, match=r"mlc_llm cannot load .*built \(ImportError: libmlc_llm.so: no such file"):
        open_backend(built, None, Silent())
