"""Templates are strangers' code: what they may use, and what a hostile one gets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from datetime import datetime
from pathlib import Path

import pytest

from toolchain.contracts.chat.renderer import Renderer
from toolchain.contracts.errors import ArtifactError, TemplateFailure, TemplateRefusal

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold to these limits")


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(seconds=10)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ value | tojson }}", '{"a": "<é>"}'),
        ("{% if true %}\n  {% set x = 1 %}\nx={{ x }}\n{% endif %}", "x=1\n"),
        ("{% for n in range(9) %}{% if n == 2 %}{% break %}{% endif %}{{ n }}{% endfor %}", "01"),
        ("{% generation %}kept{% endgeneration %}", "kept"),
        ("{{ unknown }}", ""),
        ("{% set ns = namespace(n=0) %}{% for x in 'ab' %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
    ],
)
def test_what_templates_may_use(renderer: Renderer, template: str, text: str) -> None:
    assert renderer.render(template, {"value": {"a": "<é>"}}) == text


def test_a_template_knows_the_time(renderer: Renderer) -> None:
    told = datetime.fromisoformat(renderer.render("{{ strftime_now('%Y-%m-%dT%H:%M:%S') }}", {}))
    assert abs((datetime.now() - told).total_seconds()) < 30


def test_a_template_may_refuse_messages(renderer: Renderer) -> None:
    with pytest.raises(TemplateRefusal, match="the model's chat template refuses them: no roles"):
        renderer.render("{{ raise_exception('no roles') }}", {})
    assert renderer.render("still {{ here }}", {"here": "there"}) == "still there"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{{ namespace.__init__.__globals__ }}", "SecurityError"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{% include '/etc/passwd' %}", "TypeError"),
        ("{% for n in range(10**9) %}{% endfor %}", "Range too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}", "RecursionError"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ 'x' * size }}", "it writes 10000000 characters"),
        pytest.param("{{ 'x' * 10**11 }}", "MemoryError", marks=on_linux),
        pytest.param(
            "{% set ns = namespace(x='x') %}{% for n in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "MemoryError",
            marks=on_linux,
        ),
    ],
)
def test_what_a_template_may_not(renderer: Renderer, template: str, reason: str) -> None:
    with pytest.raises(ArtifactError, match=f"cannot be rendered .*{reason}"):
        renderer.render(template, {"messages": [], "size": 10_000_000})
    assert renderer.render("still {{ here }}", {"here": "there"}) == "still there"


@pytest.mark.parametrize(
    ("template", "where"),
    [
        ("one\n{{ {}[secret].x }}", "UndefinedError in line 2"),
        ("{% macro f(x) %}\n\n{{ none[x].y }}{% endmacro %}\n{{ f(secret) }}", "UndefinedError in line 3"),
        ("one\n\n{% if %}", "TemplateSyntaxError in line 3"),
        ("{{ secret * 2_000_000 }}", "it writes 14000000 characters"),
    ],
)
def test_where_it_failed_is_told_without_what_was_rendered(renderer: Renderer, template: str, where: str) -> None:
    with pytest.raises(TemplateFailure) as caught:
        renderer.render(template, {"secret": "hunter2"})
    assert caught.value.where == where


@pytest.mark.parametrize(
    "endless",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 3 ** (3 ** 22) }}",  # one operation, which nothing within the process can interrupt
    ],
)
def test_a_template_without_end_is_ended(endless: str) -> None:
    renderer = Renderer(seconds=1)
    renderer.render("started", {})
    begun = time.monotonic()
    with pytest.raises(ArtifactError, match="it took longer than 1 seconds"):
        renderer.render(endless, {})
    assert time.monotonic() - begun < 5
    assert renderer.render("still here", {}) == "still here"


def run(program: str, asked: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-P", "-c", textwrap.dedent(program)]
    return subprocess.run(command, input=asked, env=environment, capture_output=True, timeout=30)


@on_linux
def test_whoever_leaves_the_sandbox_finds_no_file_socket_or_memory() -> None:
    done = run(
        """
        import socket
        from toolchain.contracts.chat import sandbox
        sandbox.confine()
        for harm in (lambda: open("/etc/passwd"), lambda: socket.socket(), lambda: bytearray(1 << 30)):
            try:
                harm()
                print("done")
            except (OSError, MemoryError) as error:
                print(type(error).__name__)
        """
    )
    assert done.stdout.split() == [b"OSError", b"OSError", b"MemoryError"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")
def test_the_process_knows_no_keys_and_goes_with_its_renderer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIMBLE_SECRET", "hunter2")
    renderer = Renderer()
    renderer.render("", {})
    process = renderer._process
    assert process is not None
    assert b"hunter2" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    del renderer
    assert process.wait(timeout=10) != 0


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="this system has no alarm")
def test_without_its_parent_the_process_ends_by_its_own_alarm() -> None:
    asked = b'{"template": "{{ 3 ** (3 ** 22) }}", "variables": {}}\n'
    done = run("from toolchain.contracts.chat import sandbox; sandbox.MOST_SECONDS = 0; sandbox.main()", asked)
    assert (done.returncode, done.stdout) == (-signal.SIGALRM, b"")
