"""Machines look for the one that all meet at, and say when there is none."""

from __future__ import annotations

import sys
import threading
import time

import pytest
import torch

from tests.train.launch.running import free_port
from toolchain.contracts.errors import SettingsError, StageError
from train.launch import meeting

ELSEWHERE = "127.0.0.2"
"""An address that this machine answers at and does not take for itself."""

pytestmark = pytest.mark.train


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> str:
    if sys.platform != "linux":
        pytest.skip("other systems have no 127.0.0.2")
    monkeypatch.setattr(meeting, "is_here", lambda endpoint: False)
    return f"{ELSEWHERE}:{free_port()}"


def test_a_host_that_nobody_knows_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"--rendezvous nosuch\.invalid:2000 names no machine that is known here"):
        meeting.check("nosuch.invalid:2000")
    meeting.check("localhost:2000")
    meeting.check("[::1]:2000")


def test_an_address_of_this_machine_is_here_and_one_that_loops_back_is_left_to_the_agent() -> None:
    assert not meeting.is_here("localhost:2000")
    assert not meeting.is_here("192.0.2.1:2000")  # of a network for documentation, RFC 5737
    meeting.wait_for_host("localhost:1", seconds=0)


def test_a_machine_waits_until_the_other_listens_and_leaves_it_fit_to_be_met(elsewhere: str) -> None:
    host, _, port = elsewhere.rpartition(":")
    stores = []

    def listen() -> None:
        time.sleep(1.5)
        stores.append(torch.distributed.TCPStore(host, int(port), is_master=True, wait_for_workers=False))

    thread = threading.Thread(target=listen)
    begun = time.monotonic()
    thread.start()
    meeting.wait_for_host(elsewhere, seconds=30)
    assert time.monotonic() - begun > 1
    thread.join()
    stores[0].set("word", "heard")
    assert torch.distributed.TCPStore(host, int(port), is_master=False).get("word") == b"heard"


def test_a_machine_that_never_listens_is_named(elsewhere: str) -> None:
    with pytest.raises(StageError, match=f"the machines did not meet at {elsewhere} .*refused") as caught:
        meeting.wait_for_host(elsewhere, seconds=0)
    assert "same settings" in caught.value.next_step
