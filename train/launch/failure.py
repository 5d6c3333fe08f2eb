"""Why processes that train together ended: one of them failed, and the others made something of that."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping

from toolchain.contracts.errors import FimbleError, StageError
from train.launch.worker import Report

SOON = 10
"""Seconds within which processes that die by themselves are found. The agent kills the others after more."""


def cause(failed: Mapping[int, tuple[int, int]], told: Mapping[int, Report], processes: int) -> BaseException:
    """The error that made all processes end, among how they `failed` and what they `told`, both by rank.

    Of each that failed there is the time, in seconds, and its exit code or the negative number of a signal. The
    traceback of an error that is not ours is printed. KeyboardInterrupt where they were stopped.
    """
    first = min(when for when, _ in failed.values())
    for rank, (when, code) in sorted(failed.items()):
        if code < 0 and -code != signal.SIGTERM and when < first + SOON:
            return _killed(rank, -code, processes)
    ours = {rank: report for rank, report in told.items() if report.exit_code != 130}
    if not ours:
        interrupted = bool(told) or all(code == -signal.SIGTERM for _, code in failed.values())
        rank, (_, code) = min(failed.items())
        return KeyboardInterrupt() if interrupted else StageError(f"process {rank} of {processes} ended with {code}")
    rank, report = min(ours.items(), key=lambda item: (item[1].lost, bool(item[1].traceback), item[0]))
    if report.lost:
        return lost(f"process {rank} of {processes}")
    if report.traceback:
        print(report.traceback, file=sys.stderr)
    error = FimbleError(f"process {rank}: {report.message}" if rank else report.message, report.next_step)
    error.exit_code = report.exit_code
    return error


def lost(who: str) -> StageError:
    """The error of a process, or of a machine's processes, that only another one's end has ended."""
    return StageError(
        f"{who} lost the connection to another one",
        "What ended that one is told where it ran; run again to go on from the last saved state.",
    )


def _killed(rank: int, number: int, processes: int) -> StageError:
    by = signal.Signals(number)
    memory = "The system does that when memory runs out: use a smaller --batch-size or fewer processes."
    return StageError(
        f"process {rank} of {processes} was ended by {by.name}",
        memory if by == signal.SIGKILL else "Run again to go on from the last saved state.",
    )
