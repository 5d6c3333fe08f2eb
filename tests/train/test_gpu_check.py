"""`make gpu-check` on the processor with small models: the same code, but for the device."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytestmark = [pytest.mark.train, pytest.mark.compile]


def checked(out: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-P", "-m", "benchmarks.gpu_check", *arguments, "--out", str(out)]
    code = subprocess.run(command, check=False, capture_output=True).returncode
    return code, json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_checks_run_and_report_what_they_measured(tmp_path: Path) -> None:
    names = ["engine-1b", "qlora-1b", "qlora-15b"]
    given = ["--target", "cpu", "--shape", "tiny", *(word for name in names for word in ("--only", name))]
    code, report = checked(tmp_path / "report.json", *given)
    assert [(check["name"], check["status"]) for check in report["checks"]] == [(name, "passed") for name in names]
    assert code == 0
    engine, one, _ = (check["figures"] for check in report["checks"])
    assert engine["tokens_per_second"]["decode"] > 0
    assert one["held_out_loss"]["end"] < one["held_out_loss"]["start"]
    assert one["tokens_per_second"] > 0
    assert one["memory"]["measured"] > 0 < one["memory"]["planned"]


def test_a_check_without_its_device_is_skipped_with_the_reason_and_nothing_passed(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    from benchmarks import gpu_training

    case = gpu_training.case_of("starcoder-qlora-a100-40gb", "qlora", 4, "cuda", "full")
    assert gpu_training.reason_against(case, tmp_path) == "PyTorch finds no CUDA device"


def test_a_disk_that_is_too_small_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import gpu_training

    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**10, 0, 10**10))
    case = gpu_training.case_of("starcoder-qlora-a100-40gb", "qlora", 4, "cpu", "full")
    found = gpu_training.reason_against(case, tmp_path)
    assert found == f"it needs 33 GB of disk, and {tmp_path} has 10.0 GB free: name another with --work"


def test_memory_far_from_the_plan_fails_either_way() -> None:
    from benchmarks import gpu_training

    case = gpu_training.case_of("starcoderbase-1b-lora", "qlora", 50, "cuda", "full")
    for ratio, status in ((0.84, "failed"), (0.86, "passed"), (1.14, "passed"), (1.16, "failed")):
        assert gpu_training.verdict(case, 10.0, 9.0, {"measured_by_planned": ratio})["status"] == status
    assert gpu_training.verdict(case, 10.0, 10.0, {"measured_by_planned": 1.0})["why"] == (
        "the held-out loss did not go down from 10.000"
    )


def test_tests_are_counted_by_file_with_the_reasons_of_those_left_out() -> None:
    from benchmarks.gpu_check import of_file

    whole = "<s><testcase name='a'/><testcase name='b'><failure/></testcase><testcase name='c'><skipped message='no'/>"
    cases = list(ElementTree.fromstring(f"{whole}</testcase></s>"))
    failed, skipped = of_file("x.py", cases), of_file("x.py", cases[2:])
    assert (failed.status, failed.why) == ("failed", "failed: b")
    assert failed.figures == {"passed": 1, "failed": ["b"], "skipped": {"no": 1}}
    assert (skipped.status, skipped.why) == ("skipped", "no")


def test_what_fails_or_takes_too_long_says_why(tmp_path: Path) -> None:
    from benchmarks.gpu_check import Where, call

    (tmp_path / "x").mkdir()
    assert call(["no_such_module"], Where("cpu", True, tmp_path, 60))[1].endswith("No module named no_such_module")
    assert call(["http.server", "0"], Where("cpu", True, tmp_path, 1.2))[1] == "it took more than 0.02 minutes"
