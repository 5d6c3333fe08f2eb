"""A bundle with a real, minute tokenizer, a scripted model, and a real server in a thread."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from serve.backends.native import Native
from serve.bundle import Bundle, open_bundle
from serve.completer import Completer
from serve.engine.engine import Engine
from serve.http.app import Server
from serve.settings import ServeSettings
from tests.serve.asking import ANSWER, KEY, REPLY
from tests.serve.scripted import Answer, ScriptedRunner, fails, says
from toolchain.contracts import fim, manifest
from toolchain.contracts.targets import parse_target

CONTEXT = 256
CORPUS = Path(__file__).parent
SPECIAL = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<filename>"]
CHAT_CONFIG = {
    "temperature": 0.2,
    "top_p": 0.95,
    "repetition_penalty": 1.0,
    "max_gen_len": 64,
    "prefill_chunk_size": 32,
}
CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
LIBRARY = "tiny-q4f16_1-cpu.a"


def train_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train([str(path) for path in sorted(CORPUS.glob("*.py"))], trainer)
    return tokenizer


def write_bundle(
    folder: Path,
    tokenizer: Tokenizer,
    *,
    spec: fim.FimSpec = fim.STARCODER,
    facts: dict[str, object] | None = None,
    chat: dict[str, object] | None = None,
    files: Mapping[str, str] | None = None,
) -> Path:
    with manifest.writing(folder, kind="bundle", recipe=1, parents=(), settings={}) as draft:
        params = draft.path / "params"
        params.mkdir()
        tokenizer.save(str(params / "tokenizer.json"))
        (params / "mlc-chat-config.json").write_text(json.dumps(CHAT_CONFIG | (chat or {})))
        for name, content in (files or {}).items():
            (params / name).write_text(content, encoding="utf-8")
        (draft.path / LIBRARY).write_bytes(b"")
        draft.facts |= {
            "name": "tiny",
            "scheme": "q4f16_1",
            "context_size": CONTEXT,
            "fim": spec.to_json(),
            "targets": {parse_target("cpu").name: LIBRARY},
            **(facts or {}),
        }
    return folder


@pytest.fixture(scope="session")
def trained() -> Tokenizer:
    return train_tokenizer()


@pytest.fixture(scope="session")
def bundle(trained: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(write_bundle(tmp_path_factory.mktemp("bundles") / "tiny", trained))


@pytest.fixture(scope="session")
def qwen_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """FIM tokens that the tokenizer does not mark as special, and a model that knows PSM alone."""
    tokenizer = train_tokenizer()
    names = [name for name in fim.QWEN_CODER.control_tokens if name not in SPECIAL]
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in names])
    folder = tmp_path_factory.mktemp("bundles") / "qwen"
    return open_bundle(write_bundle(folder, tokenizer, spec=fim.QWEN_CODER))


@pytest.fixture(scope="session")
def chat_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One that chats, as ChatML."""
    tokenizer = train_tokenizer()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    folder = tmp_path_factory.mktemp("bundles") / "chatty"
    return open_bundle(write_bundle(folder, tokenizer, files={"chat_template.jinja": CHATML}))


@pytest.fixture
def ids_of(bundle: Bundle) -> Callable[[str], list[int]]:
    return lambda text: bundle.tokenizer.encode(text, add_special_tokens=False).ids


def runner_for(bundle: Bundle, answer: Answer) -> ScriptedRunner:
    return ScriptedRunner(bundle.tokenizer.get_vocab_size(), answer, bundle.context_size)


def completer_for(bundle: Bundle, answer: Answer) -> tuple[Completer, ScriptedRunner]:
    """Without healing, which is for models that know more rows of tokens than a script does."""
    runner = runner_for(bundle, answer)
    return Completer(bundle, Native(Engine(runner, bundle.prefill_chunk), bundle), healing=False), runner


def saying(bundle: Bundle, text: str) -> Answer:
    return says(bundle.tokenizer.encode(text, add_special_tokens=False).ids, bundle.ids.end_of_text)


@contextmanager
def serving(
    completer: Completer, settings: ServeSettings | None = None, others: Sequence[Completer] = ()
) -> Iterator[httpx.Client]:
    """A client of a real server on a free port."""
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        app = Server([completer, *others], settings or ServeSettings()).app()
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.005)
            with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=20) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def http(bundle: Bundle) -> Iterator[httpx.Client]:
    """A client of a server that asks for KEY and says REPLY."""
    with serving(completer_for(bundle, saying(bundle, REPLY))[0], ServeSettings(api_key=KEY)) as client:
        yield client


@pytest.fixture(scope="module")
def served(bundle: Bundle) -> Iterator[tuple[httpx.Client, ScriptedRunner]]:
    """A client of a server that asks for no key and says REPLY, and what it computes with."""
    completer, runner = completer_for(bundle, saying(bundle, REPLY))
    with serving(completer) as client:
        yield client, runner


@pytest.fixture
def client(served: tuple[httpx.Client, ScriptedRunner]) -> httpx.Client:
    return served[0]


@pytest.fixture(scope="module")
def talking(chat_bundle: Bundle) -> Iterator[httpx.Client]:
    """A client of a server that chats, and says ANSWER."""
    with serving(completer_for(chat_bundle, saying(chat_bundle, ANSWER))[0]) as client:
        yield client


@pytest.fixture(scope="module")
def failing(bundle: Bundle) -> Iterator[httpx.Client]:
    """A client of a server whose model fails."""
    with serving(completer_for(bundle, fails)[0]) as client:
        yield client


def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Wait for what is to happen soon."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.005)
