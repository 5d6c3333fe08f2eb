"""What this machine's processor is, told without loading the compiler."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def identity() -> dict[str, str]:
    """System, machine and a hash of the processor's features: equal where one library runs on both machines."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "features": hashlib.sha256(_features().encode()).hexdigest()[:16],
    }


def _features() -> str:
    if CPUINFO.is_file():
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
        named = (line.partition(":") for line in lines)
        wanted = {key.strip(): value.strip() for key, _, value in named if key.strip() in ("flags", "Features")}
        return " ".join(sorted(" ".join(wanted.values()).split()))
    if platform.system() == "Darwin":
        name = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
        return name.stdout.strip()
    return platform.processor()
