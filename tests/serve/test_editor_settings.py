"""The settings that we hand out reach the server, and an answer comes back that the editor reads."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
from tokenizers import Tokenizer

from serve.bundle import Bundle
from tests.serve import llm_ls
from tests.serve.conftest import completer_for, saying, serving
from toolchain.contracts.editors.catalogue import EDITORS
from toolchain.contracts.editors.forms import nested
from toolchain.contracts.editors.served import Served
from toolchain.editors.telling import vscode_settings

STOP = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<PRE>", "<SUF>", "<MID>", "[PREFIX]"]
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


def served(url: str, bundle: Bundle) -> Served:
    return Served(url, bundle.params / "tokenizer.json", bundle.spec, bundle.context_size, bundle.name)


@pytest.mark.parametrize("honours_verbatim", [True, False])
def test_the_settings_work(bundle: Bundle, honours_verbatim: bool) -> None:
    """With an llm-ls that leaves the address alone, and with one from before it could be told to."""
    with serving(completer_for(bundle, saying(bundle, "a + b"))[0]) as client:
        base = str(client.base_url).rstrip("/")
        settings = vscode_settings(served(base, bundle))
        backend, verbatim = settings["llm.backend"], settings["llm.disableUrlPathCompletion"] and honours_verbatim
        tokens = [settings[f"llm.fillInTheMiddle.{name}"] for name in ("prefix", "suffix", "middle")]
        prompt = f"{tokens[0]}return {tokens[1]}\n{tokens[2]}"
        url = llm_ls.url_of(backend, settings["llm.url"], settings["llm.modelId"], verbatim)
        body = llm_ls.body_of(backend, prompt, settings["llm.modelId"], settings["llm.requestBody"])
        assert llm_ls.read(backend, client.post(url, json=body).text) == (["a + b"], None)


def test_every_name_is_one_that_the_extension_knows(bundle: Bundle) -> None:
    settings = vscode_settings(served("http://127.0.0.1:8000", bundle))
    assert settings.keys() <= KNOWN
    assert json.loads(json.dumps(settings)) == settings
    Tokenizer.from_file(settings["llm.tokenizer"]["path"])
    assert settings["llm.contextWindow"] <= 1024


def made(name: str, client: httpx.Client, bundle: Bundle) -> dict[str, Any]:
    settings = EDITORS[name].make(served(str(client.base_url).rstrip("/"), bundle))
    assert not isinstance(settings, str)
    return nested(settings)


def test_zed_gets_its_text(bundle: Bundle) -> None:
    with serving(completer_for(bundle, saying(bundle, "a + b"))[0]) as client:
        api = made("zed", client, bundle)["edit_predictions"]["open_ai_compatible_api"]
        assert api["prompt_format"] == "star_coder"
        prompt = "<fim_prefix>return <fim_suffix>\n<fim_middle>"
        body = {"model": api["model"], "prompt": prompt, "max_tokens": api["max_output_tokens"], "stop": STOP}
        assert client.post(api["api_url"], json=body).json()["choices"][0]["text"] == "a + b"


def test_continue_gets_its_text(bundle: Bundle) -> None:
    with serving(completer_for(bundle, saying(bundle, "a + b"))[0]) as client:
        (model,) = made("continue", client, bundle)["models"]
        template = model["promptTemplates"]["autocomplete"]
        prompt = template.replace("{{{prefix}}}", "return ").replace("{{{suffix}}}", "\n")
        options = model["defaultCompletionOptions"]
        body = {"prompt": prompt, "stream": True, "n_predict": options["maxTokens"], "stop": options["stop"]}
        for path in ("completion", "completions"):  # one in older releases, one in newer
            reply = client.post(urljoin(model["apiBase"], path), json=body)
            events = [json.loads(line.removeprefix("data: ")) for line in reply.text.split("\n\n") if line]
            assert "".join(event["content"] for event in events) == "a + b"


def test_llama_vscode_gets_its_text(bundle: Bundle) -> None:
    with serving(completer_for(bundle, saying(bundle, "a + b"))[0]) as client:
        settings = made("llama.vscode", client, bundle)
        body = {
            "input_prefix": "",
            "input_suffix": "\n",
            "prompt": "return ",
            "n_cmpl": settings["llama-vscode.max_parallel_completions"],
            "n_predict": settings["llama-vscode.n_predict"],
            "t_max_prompt_ms": settings["llama-vscode.t_max_prompt_ms"],
            "t_max_predict_ms": settings["llama-vscode.t_max_predict_ms"],
        }
        assert client.post(f"{settings['llama-vscode.endpoint']}/infill", json=body).json()["content"] == "a + b"


def test_tabby_gets_its_text(bundle: Bundle) -> None:
    with serving(completer_for(bundle, saying(bundle, "a + b"))[0]) as client:
        endpoint = made("tabby", client, bundle)["server"]["endpoint"]
        assert client.get(f"{endpoint}/v1/health").json()["model"] == "tiny"
        body = {"language": "python", "segments": {"prefix": "return ", "suffix": "\n"}}
        assert client.post(f"{endpoint}/v1/completions", json=body).json()["choices"][0]["text"] == "a + b"
