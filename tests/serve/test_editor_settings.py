"""The settings that we hand out for VS Code reach the server, and an answer comes back that the editor reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from toolchain.editor import vscode_settings

from serve.bundle import Bundle
from tests.serve import llm_ls
from tests.serve.conftest import completer_for, saying, serving

# The names in llm-vscode 0.2's package.json.
KNOWN = {
    "llm.requestDelay",
    "llm.enableAutoSuggest",
    "llm.configTemplate",
    "llm.modelId",
    "llm.backend",
    "llm.url",
    "llm.fillInTheMiddle.enabled",
    "llm.fillInTheMiddle.prefix",
    "llm.fillInTheMiddle.middle",
    "llm.fillInTheMiddle.suffix",
    "llm.requestBody",
    "llm.contextWindow",
    "llm.tokensToClear",
    "llm.attributionWindowSize",
    "llm.attributionEndpoint",
    "llm.tlsSkipVerifyInsecure",
    "llm.lsp.binaryPath",
    "llm.lsp.port",
    "llm.lsp.logLevel",
    "llm.tokenizer",
    "llm.documentFilter",
    "llm.disableUrlPathCompletion",
}


@pytest.mark.parametrize("honours_verbatim", [True, False])
def test_the_settings_work(bundle: Bundle, honours_verbatim: bool) -> None:
    """With an llm-ls that leaves the address alone, and with one from before it could be told to."""
    with serving(completer_for(bundle, saying(bundle, "a + b"))[0]) as client:
        base = str(client.base_url).rstrip("/")
        tokenizer = bundle.params / "tokenizer.json"
        settings = vscode_settings(base, tokenizer, bundle.spec, bundle.context_size, bundle.name)
        backend, verbatim = settings["llm.backend"], settings["llm.disableUrlPathCompletion"] and honours_verbatim
        tokens = [settings[f"llm.fillInTheMiddle.{name}"] for name in ("prefix", "suffix", "middle")]
        prompt = f"{tokens[0]}return {tokens[1]}\n{tokens[2]}"
        url = llm_ls.url_of(backend, settings["llm.url"], settings["llm.modelId"], verbatim)
        body = llm_ls.body_of(backend, prompt, settings["llm.modelId"], settings["llm.requestBody"])
        assert llm_ls.read(backend, client.post(url, json=body).text) == (["a + b"], None)


def test_every_name_is_one_that_the_extension_knows(bundle: Bundle) -> None:
    settings = vscode_settings("http://127.0.0.1:8000", bundle.params / "tokenizer.json", bundle.spec, 8192, "m")
    assert settings.keys() <= KNOWN
    assert json.loads(json.dumps(settings)) == settings
    Tokenizer.from_file(settings["llm.tokenizer"]["path"])
    assert settings["llm.contextWindow"] <= 1024


@pytest.mark.parametrize("context", [64, 256, 2048, 8192])
def test_the_window_leaves_room_for_the_completion(bundle: Bundle, context: int) -> None:
    settings = vscode_settings("http://127.0.0.1:8000", Path("tokenizer.json"), bundle.spec, context, "m")
    assert 0 < settings["llm.contextWindow"] < context
