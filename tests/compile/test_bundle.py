"""The compile stage as a whole, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from compile.bundle import plan_compile
from compile.settings import CompileSettings
from serve.backends.native import open_native
from serve.bundle import open_bundle
from serve.completer import Completer
from serve.engine.loading import load
from serve.requests import CompletionRequest
from tests.compile.conftest import PARENT
from toolchain.contracts import manifest
from toolchain.contracts.cache_folder import VARIABLE
from toolchain.contracts.errors import (
    ArtifactError,
    FimTokenError,
    SettingsError,
    UnknownTarget,
    UnsupportedArchitecture,
)
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute

pytestmark = pytest.mark.compile


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    execute(plan_compile(checkpoint, PARENT, CompileSettings()), out, Silent())
    return out


def test_bundle_completes(bundle: Path) -> None:
    opened = open_bundle(bundle)
    completer = Completer(opened, open_native(opened, Silent()))
    request = CompletionRequest("def f(", ")\n", max_tokens=5)
    done, again = completer.complete(request), completer.complete(request)
    assert 0 < done.statistics.generated <= 5
    assert again.text == done.text
    assert (again.statistics.reused, again.statistics.prefilled) == (done.statistics.prefilled - 1, 1)


def test_a_chat_reads_only_what_its_last_turn_added(checkpoint: Path, tmp_path: Path) -> None:
    """Through the server, with a real library: what the earlier turns held is still in the KV cache."""
    pytest.importorskip("starlette", reason="needs the serve extra")
    from tests.serve.conftest import serving

    (chatting := tmp_path / "checkpoint").mkdir()
    for path in checkpoint.iterdir():
        (chatting / path.name).symlink_to(path)
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\\n{% endfor %}assistant:"
    (chatting / "chat_template.jinja").write_text(template, encoding="utf-8")
    execute(plan_compile(chatting, PARENT, CompileSettings()), tmp_path / "bundle", Silent())
    assert manifest.verify(tmp_path / "bundle") == []
    opened = open_bundle(tmp_path / "bundle")
    messages, cached, prompts = [], [], []
    with serving(Completer(opened, open_native(opened, Silent()))) as client:
        for asked in ("def f(x):", "and g?", "return"):
            messages.append({"role": "user", "content": asked})
            body = {"messages": messages, "max_tokens": 8, "temperature": 0}
            reply = client.post("/v1/chat/completions", json=body).raise_for_status().json()
            messages.append(reply["choices"][0]["message"])
            cached.append(reply["usage"]["prompt_tokens_details"]["cached_tokens"])
            prompts.append(reply["usage"]["prompt_tokens"])
    assert cached[0] == 0
    assert cached[1] >= prompts[0]
    assert cached[2] >= prompts[1]


def test_second_build_is_the_same_to_the_byte(
    bundle: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "empty"))
    again = execute(plan_compile(checkpoint, PARENT, CompileSettings()), tmp_path / "again", Silent())
    assert again.digest == manifest.read(bundle).digest
    assert manifest.verify(tmp_path / "again") == []


def test_chat_config_has_the_copilots_values(bundle: Path) -> None:
    config = json.loads((bundle / "params" / "mlc-chat-config.json").read_text(encoding="utf-8"))
    assert (config["temperature"], config["top_p"], config["repetition_penalty"]) == (0.2, 0.95, 1.0)
    assert config["max_gen_len"] == config["mean_gen_len"] == 64
    assert config["conv_template"]["stop_str"] == ["<|endoftext|>"]


def test_library_with_other_weights_is_refused(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    index = copy / "params" / "tensor-cache.json"
    index.write_text(index.read_text(encoding="utf-8").replace("transformer.ln_f.bias", "other"), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"does not know|lacks"):
        load(open_bundle(bundle).libraries[0][1], copy / "params")


def damaged(checkpoint: Path, tmp_path: Path, **changes: object) -> Path:
    """A copy of the checkpoint with keys of its config changed."""
    copy = tmp_path / "damaged"
    shutil.copytree(checkpoint, copy)
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    return copy


def test_unsupported_architecture(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedArchitecture, match="Supported: gpt_bigcode"):
        plan_compile(damaged(checkpoint, tmp_path, model_type="mamba"), PARENT, CompileSettings())


def test_missing_fim_token(checkpoint: Path, tmp_path: Path) -> None:
    copy = damaged(checkpoint, tmp_path)
    path = copy / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace("<fim_middle>", "<other>"), encoding="utf-8")
    with pytest.raises(FimTokenError, match="<fim_middle>"):
        plan_compile(copy, PARENT, CompileSettings())


def test_wrong_shape_and_truncated_weights(checkpoint: Path, tmp_path: Path) -> None:
    copy = damaged(checkpoint, tmp_path, n_inner=512)
    with pytest.raises(ArtifactError, match="has the shape"):
        execute(plan_compile(copy, PARENT, CompileSettings()), tmp_path / "out", Silent())
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="truncated"):
        execute(plan_compile(copy, PARENT, CompileSettings()), tmp_path / "out", Silent())
    assert not (tmp_path / "out").exists()


def test_a_config_of_another_model_is_found_before_anything_is_compiled(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compile.library.build", lambda *_: pytest.fail("it compiled"))
    config = json.loads((checkpoint / "config.json").read_text())
    for change, told in (({"n_layer": 10**9}, "1,000,000,000 layers"), ({"n_inner": 512}, "has the shape")):
        other = tmp_path / told[:3]
        shutil.copytree(checkpoint, other)
        (other / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ArtifactError, match=told):
            execute(plan_compile(other, PARENT, CompileSettings()), tmp_path / "bundle", Silent())


def test_settings_check_themselves() -> None:
    with pytest.raises(UnknownTarget, match="Did you mean 'cpu'"):
        CompileSettings(target=("cppu",))
    with pytest.raises(SettingsError, match="Did you mean 'q4f16_1'"):
        CompileSettings(quantization="q4f16")
