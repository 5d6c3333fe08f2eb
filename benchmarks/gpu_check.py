"""Everything that needs a GPU, in one go, and one report of it: `make gpu-check`.

The tests marked `gpu`, among them logits beside the processor's and packing under flash attention; the compiled
engine's speed; and trainings of two presets beside what `plan` says of their memory. Each is a process of its own, so
that none takes from another's memory and what fails does not end the rest. A check passed, failed or was skipped, and
what did not pass says why. The exit code is 0 when some passed and none failed.

    python -P -m benchmarks.gpu_check [--target cuda|metal|vulkan|cpu] [--shape full|tiny] [--out gpu-check.json]
                                      [--only NAME ...] [--work DIR] [--limit-minutes 120]

`--target cpu --shape tiny` runs the very same code without a GPU, to show that it works.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from benchmarks.gpu_training import lacking_disk, prepare
from benchmarks.machine import machine
from benchmarks.random_checkpoint import ONE_BILLION, STARCODER
from toolchain.contracts import architectures
from toolchain.contracts.manifest import tool_version, write_text

Status = Literal["passed", "failed", "skipped"]
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "flash-attn", "apache-tvm", "numpy")
TRAINING_DEVICES = {"cuda": "cuda", "metal": "mps", "cpu": "cpu"}
TRAININGS = {"qlora-1b": ("starcoderbase-1b-lora", 50), "qlora-15b": ("starcoder-qlora-a100-40gb", 4)}
"""The preset and the number of steps."""
ENGINES = {"engine-1b": ONE_BILLION, "engine-15b": STARCODER}
NAMES = ("tests", *ENGINES, *TRAININGS)
CONVERTED = 1.3
"""A checkpoint with its 4-bit weights beside it, by the checkpoint alone."""


@dataclass(frozen=True)
class Check:
    """What became of one check; `figures` are whatever it measured."""

    name: str
    status: Status
    why: str | None
    seconds: float
    figures: dict[str, Any]


@dataclass(frozen=True)
class Where:
    """On what to run, at which size, in which folder, and for how long each check may take."""

    target: str
    tiny: bool
    work: Path
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=("cuda", "metal", "vulkan", "cpu"), default="cuda")
    parser.add_argument("--shape", choices=("full", "tiny"), default="full")
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"))
    parser.add_argument("--only", choices=NAMES, action="append", help="may be given more than once")
    parser.add_argument("--work", type=Path, help="where to write; the system's temporary folder unless given")
    parser.add_argument("--limit-minutes", type=float, default=120.0, help="of each check")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.work) as name:
        where = Where(chosen.target, chosen.shape == "tiny", Path(name), 60 * chosen.limit_minutes)
        checks = [check for name in chosen.only or NAMES for check in run(name, where)]
    counted = Counter(check.status for check in checks)
    report = {
        "fimble": tool_version(),
        "machine": machine(),
        "gpu": gpu(),
        "versions": {name: installed(name) for name in PACKAGES},
        "settings": {"target": chosen.target, "shape": chosen.shape},
        **{status: counted[status] for status in ("passed", "failed", "skipped")},
        "checks": [asdict(check) for check in checks],
    }
    write_text(chosen.out, json.dumps(report, indent=1) + "\n")
    for check in checks:
        print(f"{check.status:8} {check.name:32} {check.seconds:8.1f} s  {check.why or ''}".rstrip())
    print(f"report: {chosen.out}")
    sys.exit(0 if counted["passed"] and not counted["failed"] else 1)


def run(name: str, where: Where) -> list[Check]:
    """The check called `name`; of the tests, one for each file of them."""
    print(f"== {name}", file=sys.stderr, flush=True)
    if name == "tests":
        return tests(where)
    begun = time.monotonic()
    found = engine(name, where) if name in ENGINES else training(name, where)
    status, why = found.pop("status", "passed"), found.pop("why", None)
    return [Check(name, status, why, round(time.monotonic() - begun, 1), found)]


def tests(where: Where) -> list[Check]:
    """All tests marked `gpu`, a check for each file."""
    out = where.work / "junit.xml"
    begun = time.monotonic()
    failure = call(["pytest", "-m", "gpu", f"--junitxml={out}", "-o", "junit_family=xunit1"], where)[1]
    if not out.is_file():
        return [Check("tests", "failed", failure or "pytest wrote no report", round(time.monotonic() - begun, 1), {})]
    files: dict[str, list[ElementTree.Element]] = {}
    for case in ElementTree.parse(out).getroot().iter("testcase"):
        files.setdefault(case.get("file") or str(case.get("classname")), []).append(case)
    return [of_file(file, cases) for file, cases in files.items()]


def of_file(file: str, cases: Sequence[ElementTree.Element]) -> Check:
    """What became of the tests in one file."""
    skipped = Counter(str(found.get("message")) for case in cases if (found := case.find("skipped")) is not None)
    failed = [
        str(case.get("name")) for case in cases if case.find("failure") is not None or case.find("error") is not None
    ]
    passed = len(cases) - sum(skipped.values()) - len(failed)
    status: Status = "failed" if failed else "passed" if passed else "skipped"
    why = f"failed: {', '.join(failed)}" if failed else "; ".join(skipped) if not passed else None
    seconds = sum(float(case.get("time", 0)) for case in cases)
    return Check(file, status, why, round(seconds, 1), {"passed": passed, "failed": failed, "skipped": dict(skipped)})


def engine(name: str, where: Where) -> dict[str, Any]:
    """The compiled engine's speed, with a model of the shape that `name` stands for."""
    facts = architectures.from_config(ENGINES[name] | ({"n_layer": 1} if where.tiny else {}))
    why = lacking_device(where.target) or lacking_disk(CONVERTED * 2 * facts.parameters, where.work)
    if why:
        return {"status": "skipped", "why": why}
    small = ["--layers", "1", "--context", "16", "--tokens", "4", "--rounds", "1"] if where.tiny else []
    shape = ["--starcoder"] if ENGINES[name] is STARCODER else []
    return outcome(["benchmarks.gpu", "--target", where.target, "--work", str(where.work), *shape, *small], where)


def training(name: str, where: Where) -> dict[str, Any]:
    """A preset's QLoRA training beside its plan."""
    if where.target not in TRAINING_DEVICES:
        return {"status": "skipped", "why": f"PyTorch does not train on {where.target}"}
    preset, steps = TRAININGS[name]
    steps = 20 if where.tiny and steps > 20 else steps
    prepare(where.work, where.tiny)
    device, shape = TRAINING_DEVICES[where.target], "tiny" if where.tiny else "full"
    given = ["--preset", preset, "--method", "qlora", "--steps", str(steps), "--device", device, "--shape", shape]
    return outcome(["benchmarks.gpu_training", *given, "--work", str(where.work)], where)


def outcome(module: Sequence[str], where: Where) -> dict[str, Any]:
    """The report on the last line of what a module prints, or why there is none."""
    lines, failure = call(module, where)
    if failure:
        return {"status": "failed", "why": failure}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def call(module: Sequence[str], where: Where) -> tuple[list[str], str | None]:
    """What a module printed, and what was wrong when it failed: its last line of complaint, which is passed on."""
    printed, complaints = where.work / "printed", deque[str](maxlen=20)
    command = [sys.executable, "-P", "-m", *module]
    with printed.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True, errors="replace")
        too_late = threading.Timer(where.seconds, process.kill)
        too_late.start()
        try:
            assert process.stderr
            for line in process.stderr:
                sys.stderr.write(line)
                complaints.append(line.strip())
            code = process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            in_time = too_late.is_alive()
            too_late.cancel()
    lines = printed.read_text(encoding="utf-8", errors="replace").splitlines()
    if code == 0:
        return lines, None
    sys.stderr.write("".join(f"{line}\n" for line in lines))
    if not in_time:
        return [], f"it took more than {where.seconds / 60:g} minutes"
    return [], f"ended with {code}: {next((line for line in reversed(complaints) if line), 'without a word')}"


def lacking_device(target: str) -> str | None:
    """Why the compiled engine cannot run on `target` here."""
    import tvm

    if target == "cpu":
        return None
    if not tvm.runtime.enabled(target):
        return f"the installed TVM has no {target}"
    return None if tvm.device(target, 0).exist else f"TVM finds no {target} device"


@cache
def gpu() -> dict[str, Any] | None:
    """The GPU as PyTorch and its driver know it."""
    import torch

    if not torch.cuda.is_available():
        return {"name": "MPS"} if torch.backends.mps.is_available() else None
    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "memory_gigabytes": round(found.total_memory / 1e9, 1),
        "capability": f"{found.major}.{found.minor}",
        "count": torch.cuda.device_count(),
        "driver": driver(),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
    }


def driver() -> str | None:
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
