"""The server as a process: its address, its end, and what stops it from starting."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from serve.bundle import Bundle
from serve.server import address, run
from serve.settings import ServeSettings
from toolchain.contracts.errors import ArtifactError, PortBusy, SettingsError
from toolchain.contracts.progress import Silent

ROOT = Path(__file__).parents[2]
# The model is scripted and slow; everything else is what `fimble serve` does.
PROGRAM = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from serve import server
    from serve.backends import native
    from serve.settings import ServeSettings
    from tests.serve.scripted import ScriptedRunner, repeats
    from toolchain.contracts.progress import Silent

    class Told(Silent):
        def say(self, line):
            print(line, flush=True)

    def load_runner(bundle, progress):
        answer = repeats(bundle.tokenizer.encode("x").ids[0])
        runner = ScriptedRunner(bundle.tokenizer.get_vocab_size(), answer, bundle.context_size)
        runner.seconds_a_call = 0.02
        return runner

    native.load_runner = load_runner
    server.run(Path(sys.argv[1]), ServeSettings(port=0), Told())
    """
)


@contextmanager
def process(bundle: Bundle) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-P", "-c", PROGRAM, str(bundle.folder)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        try:
            line = running.stdout.readline()
            found = re.fullmatch(r"serving tiny at (http://127\.0\.0\.1:\d+)\n", line)
            assert found, (line, running.stderr)
            yield running, found[1]
        finally:
            running.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_being_told_to_stop_finishes_what_has_begun_and_is_no_failure(bundle: Bundle, number: signal.Signals) -> None:
    with process(bundle) as (running, url):
        replies: list[httpx.Response] = []
        body = {"inputs": "a", "parameters": {"max_new_tokens": 30}}
        asking = threading.Thread(target=lambda: replies.append(httpx.post(url, json=body, timeout=20)))
        asking.start()
        while httpx.get(f"{url}/health").status_code != 200:
            pass
        asking.join(0.2)
        running.send_signal(number)
        asking.join()
        out, errors = running.communicate(timeout=20)
        assert replies[0].json()[0]["generated_text"]
        assert (running.returncode, out, errors) == (0, "stopped\n", "")


def test_a_busy_port_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortBusy, match=rf"port {port} on 127.0.0.1 is in use. Choose another --port"):
            run(tmp_path / "no bundle", ServeSettings(port=port), Silent())


def test_a_bundle_that_is_none_gives_the_port_back(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for _ in range(2):
        with pytest.raises(ArtifactError):
            run(tmp_path / "no bundle", ServeSettings(port=port), Silent())


def test_an_address_that_is_not_this_machines(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot listen on 192\\.0\\.2\\.1:0"):
        run(tmp_path, ServeSettings(host="192.0.2.1", port=0, api_key="k"), Silent())


def test_addresses() -> None:
    assert address("127.0.0.1", 8000) == "http://127.0.0.1:8000"
    assert address("::1", 8000) == "http://[::1]:8000"


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"port": -1}, "--port"),
        ({"port": 70000}, "--port"),
        ({"queue_limit": 0}, "--queue-limit"),
        ({"host": "0.0.0.0"}, "--host"),
        ({"host": ""}, "--host"),
        ({"api_key": ""}, "--api-key"),
        ({"api_key": "sécret"}, "--api-key"),
        ({"api_key": "two words"}, "--api-key"),
    ],
)
def test_settings_check_themselves(values: dict[str, object], flag: str) -> None:
    with pytest.raises(SettingsError, match=flag) as caught:
        ServeSettings(**values)  # type: ignore[arg-type]
    assert caught.value.next_step
