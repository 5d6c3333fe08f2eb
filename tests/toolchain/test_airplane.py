"""On a plane: nothing tries to reach another machine, and with no network at all compiling and serving work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.compile.families import random_model, write_tokenizer

pytestmark = pytest.mark.compile
ROOT = Path(__file__).parents[2]
# Runs at the start of every Python process below. An attempt is an error even where the system would have refused it.
GUARD = textwrap.dedent(
    """
    import ipaddress, os, sys

    def local(host):
        try:
            return host in (None, "", "localhost") or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def guard(event, arguments):
        if event in ("socket.connect", "socket.sendto"):
            address = arguments[1]
            hosts = [address[0]] if isinstance(address, tuple) else []
        elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
            hosts = [arguments[0]]
        else:
            return
        for host in hosts:
            host = host.decode() if isinstance(host, bytes) else host
            if not local(host):
                with open(os.environ["REACHED_OUT"], "a") as file:
                    print(event, host, sys.argv, file=file)
                raise OSError(f"{event} {host}: no network here")

    sys.addaudithook(guard)
    """
)
# What a user does, and what the editor does then. In a network namespace of its own even loopback begins switched off.
TRIP = textwrap.dedent(
    """
    import fcntl, json, socket, struct, subprocess, sys, urllib.request

    checkpoint, out, cut = sys.argv[1:]
    if cut == "cut":
        with socket.socket() as any_socket:
            up_and_running = 0x1 | 0x40
            fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", up_and_running))
        if [name for _, name in socket.if_nameindex()] != ["lo"]:
            sys.exit("the network is not cut off")
    fimble = [sys.executable, "-P", "-m", "toolchain.cli"]
    subprocess.run([*fimble, "compile", checkpoint, "--out", out], check=True)
    with subprocess.Popen([*fimble, "serve", out, "--port", "0", "--json"], stdout=subprocess.PIPE) as server:
        url = json.loads(server.stdout.readline())["url"]
        body = {"inputs": "<fim_prefix>def f(<fim_suffix>)<fim_middle>", "parameters": {"max_new_tokens": 8}}
        replies = {}
        for path in ("/", "/health", "/info"):
            data = json.dumps(body).encode() if path == "/" else None
            request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as reply:
                replies[path] = reply.read().decode()
        server.terminate()
        replies["exit"] = server.wait(30)
    print(json.dumps(replies))
    """
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    random_model("llama").save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def travel(checkpoint: Path, folder: Path, *before: str) -> dict[str, Any]:
    """The trip's replies, after asserting that nothing reached out; `before` stands before its command line."""
    (folder / "sitecustomize.py").write_text(GUARD)
    (folder / "trip.py").write_text(TRIP)
    reached = folder / "reached"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "FIMBLE_CACHE": str(folder / "cache"),
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "REACHED_OUT": str(reached),
    }
    line = [*before, sys.executable, str(folder / "trip.py"), str(checkpoint), str(folder / "bundle")]
    done = subprocess.run(
        [*line, "cut" if before else ""], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert not reached.exists(), reached.read_text()
    assert done.returncode == 0, done.stderr[-3000:]
    replies: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return replies


def arrived(replies: dict[str, Any]) -> None:
    assert "generated_text" in json.loads(replies["/"])[0]
    assert json.loads(replies["/health"])["status"] == "ok"
    assert replies["exit"] == 0


def test_nothing_reaches_out(checkpoint: Path, tmp_path: Path) -> None:
    arrived(travel(checkpoint, tmp_path))


def test_without_a_network(checkpoint: Path, tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-rn", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system gives no network namespace (unshare -rn)")
    arrived(travel(checkpoint, tmp_path, unshare, "-rn"))


def test_the_guard_sees_an_attempt(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    environment = {"PYTHONPATH": str(tmp_path), "REACHED_OUT": str(tmp_path / "reached"), "PATH": os.environ["PATH"]}
    program = "import urllib.request; urllib.request.urlopen('http://192.0.2.1:9')"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)
    assert done.returncode == 1
    assert "192.0.2.1" in (tmp_path / "reached").read_text()
