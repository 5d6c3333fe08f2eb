"""The processes of a training on this machine, started and watched by torchrun's own agent, within this process.

They report to a folder how they fail. What is told is one line: the cause, and not what the others made of it.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.contracts.errors import SettingsError
from train.launch import failure, meeting, worker
from train.launch.settings import LaunchSettings
from train.launch.worker import LAUNCHER, REPORTS

if TYPE_CHECKING:
    from train.running import Device


def command(arguments: Sequence[str]) -> list[str]:
    """What each process runs."""
    return [sys.executable, "-P", "-m", "toolchain.cli", *arguments]


def check_devices(settings: LaunchSettings, wanted: Device) -> None:
    """Raise SettingsError where this machine has no device of the `wanted` kind for each process."""
    import torch

    from train import devices

    kind = devices.find(wanted).type
    if kind == "mps" and settings.processes > 1:
        raise SettingsError("Apple's GPUs train in one process only", "Use --launcher local, or --device cpu.")
    if kind == "cuda" and settings.count > torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise SettingsError(f"--count {settings.count}: PyTorch finds {there} GPUs here", f"Use --count {there}.")


def start(settings: LaunchSettings, arguments: Sequence[str], run: str) -> None:
    """Run `fimble` with these arguments in `settings.count` processes, until all have ended.

    Processes on other machines that start the same `run` belong to them. Raises KeyboardInterrupt when they were
    stopped, and else the error of the process that failed first, with its exit code.
    """
    from torch.distributed.elastic.rendezvous import RendezvousError

    if settings.rendezvous is not None:
        print(f"meeting at {settings.rendezvous}: {settings.nodes} machines, each started alike", file=sys.stderr)
        meeting.wait_for_host(settings.rendezvous)
    with tempfile.TemporaryDirectory(prefix="fimble-") as folder:
        reports = Path(folder) / "reports"
        reports.mkdir()
        given = {LAUNCHER: str(os.getpid()), REPORTS: str(reports)}
        usual = {"OMP_NUM_THREADS": str(max(1, _cores() // settings.count))}
        try:
            with _environment(usual | os.environ | given), _quiet():
                failed = _run(settings, command(arguments), run, folder)
        except RendezvousError as error:
            if not worker.has_begun(reports):
                raise meeting.failed(str(settings.rendezvous), str(error)) from None
            raise failure.lost("this machine") from None
        told = worker.reports(reports)
    if failed:
        raise failure.cause(failed, told, settings.processes)


def _run(settings: LaunchSettings, words: Sequence[str], run: str, logs: str) -> dict[int, tuple[int, int]]:
    """When processes failed, by rank: the time in seconds, and the exit code or the negative signal."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    endpoint = settings.rendezvous or "localhost:0"
    config = LaunchConfig(
        min_nodes=settings.nodes,
        max_nodes=settings.nodes,
        nproc_per_node=settings.count,
        logs_specs=DefaultLogsSpecs(log_dir=logs),
        run_id=run,
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        rdzv_configs={"read_timeout": meeting.PATIENCE} | ({"is_host": True} if meeting.is_here(endpoint) else {}),
        max_restarts=0,
    )
    try:
        elastic_launch(config, words[0])(*words[1:])
    except SignalException:
        raise KeyboardInterrupt from None
    except ChildFailedError as error:
        return {rank: (int(ended.timestamp), ended.exitcode) for rank, ended in error.failures.items()}
    return {}


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """With these variables, which the processes inherit."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the agent's own account of what it does."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
