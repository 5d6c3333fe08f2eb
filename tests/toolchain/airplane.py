"""What `test_airplane` runs without a network: compiling, serving, and asking over loopback, each a process."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

FIMBLE = [sys.executable, "-P", "-m", "toolchain.cli"]
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1  # netdevice(7)
GUARD = """
import ipaddress, os, sys

def allowed(host):
    host = host.decode() if isinstance(host, (bytes, bytearray)) else host
    try:
        return host in (None, "", "localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

def hook(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        asked = arguments[1][0] if isinstance(arguments[1], tuple) else None
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        asked = arguments[0]
    elif event == "socket.getnameinfo":
        asked = arguments[0][0]
    else:
        return
    if not allowed(asked):
        with open(os.environ["AIRPLANE_LOG"], "a") as log:
            log.write(f"{event} {asked!r}\\n")
        raise OSError(f"no network here: {event} {asked!r}")

sys.addaudithook(hook)
open(f"{os.environ['AIRPLANE_LOG']}.{os.getpid()}", "w").close()
"""
"""Refuses, in every Python process that finds it as its `sitecustomize`, what is not loopback, and writes it down.

A file with the process's number beside the log says that it was there.
"""


def raise_loopback() -> None:
    """A new network namespace has a loopback interface that is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | IFF_UP))


def compile_and_serve(checkpoint: Path, out: Path) -> dict[str, Any]:
    """What editors of several dialects got."""
    compiled = subprocess.run(
        [*FIMBLE, "compile", checkpoint, "--out", out, "--json"], stdout=subprocess.PIPE, check=True
    )
    line = [*FIMBLE, "serve", str(out), "--port", "0", "--json"]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as server:
        assert server.stdout
        url = json.loads(server.stdout.readline())["url"]
        fim = "<fim_prefix>def f(a):\n    return <fim_suffix>\n<fim_middle>"
        replies = {
            "tgi": post(f"{url}/generate", {"inputs": fim, "parameters": {"max_new_tokens": 4}}),
            "openai": post(f"{url}/v1/completions", {"prompt": "def f(a):\n", "suffix": "\n", "max_tokens": 4}),
            "llama.cpp": post(f"{url}/infill", {"input_prefix": "def f(", "input_suffix": ")", "n_predict": 4}),
        }
        server.send_signal(signal.SIGINT)
        code = server.wait(30)
    return {"made": json.loads(compiled.stdout)["made"], "replies": replies, "code": code}


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


if __name__ == "__main__":
    if os.environ.get("AIRPLANE_NAMESPACE"):
        raise_loopback()
    interfaces = [name for _, name in socket.if_nameindex()]
    report = compile_and_serve(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps({**report, "interfaces": interfaces}))
