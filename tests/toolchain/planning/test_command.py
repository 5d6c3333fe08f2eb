"""`fimble plan` on the command line, without a network."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.toolchain.conftest import Fimble
from toolchain.planning import gpus, machine, models, plan
from toolchain.planning.machine import Machine
from train import presets
from train.settings import TrainSettings

ONE = ("plan", "--base", "bigcode/starcoderbase-1b", "--gpu", "rtx-4090")


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_fits_the_machine_that_it_was_made_for(fimble: Fimble, name: str) -> None:
    found = fimble("plan", "--preset", name, "--json").report
    preset = presets.load(name)
    assert found["fits"]
    assert found["changes"] == []
    assert (found["machine"]["name"], found["machine"]["count"]) == (preset.gpu, preset.count)
    assert found["bytes"] == pytest.approx(sum(found["memory"].values()), abs=len(found["memory"]))


def test_the_same_plan_for_people(fimble: Fimble) -> None:
    told = fimble("plan", "--preset", "starcoder-qlora-a100-40gb").out
    assert "trained: 110,428,160 of 15,627,884,544 parameters" in told
    assert "by rule of thumb 9.53 GB" in told
    assert "published for the reference's own loop: 26 GB on each GPU, 12.5 h, $13.75" in told
    assert "published" not in fimble("plan", "--preset", "starcoderbase-1b-lora").out


def test_flags_come_before_the_file_and_the_file_before_the_preset(fimble: Fimble, tmp_path: Path) -> None:
    (tmp_path / "fimble.toml").write_text("[train]\nlora-rank = 4\nbatch-size = 2\n", encoding="utf-8")
    line = ("plan", "--preset", "starcoderbase-1b-lora", "--batch-size", "1", "--price", "2", "--gpu", "h100-80gb")
    found = fimble(*line, "--json").report
    settings = found["settings"]
    assert (settings["batch_size"], settings["lora_rank"], settings["gradient_checkpointing"]) == (1, 4, True)
    assert found["dollars"] == pytest.approx(2 * found["hours"])
    assert found["machine"]["name"] == "h100-80gb"


def test_what_does_not_fit_is_told_with_what_would(fimble: Fimble) -> None:
    found = fimble(*ONE, "--json").report
    assert not found["fits"]
    words = " ".join(found["changes"]).split()
    assert fimble(*ONE, *words, "--json").report["fits"]
    batches = found["largest_batch"]["lora"]
    assert fimble(*ONE, "--batch-size", batches["without_checkpointing"], "--json").report["fits"]
    assert not fimble(*ONE, "--batch-size", 2 * batches["without_checkpointing"], "--json").report["fits"]
    assert "to make it fit: " in fimble(*ONE).out


def test_what_was_published_is_told_of_the_reference_whatever_else_is_planned_for(fimble: Fimble) -> None:
    line = ("plan", "--preset", "starcoder-qlora-a100-40gb")
    one, other = (fimble(*line, *more).out.partition("published for")[2] for more in ((), ("--batch-size", "1")))
    assert one == other != ""


def test_what_no_settings_make_fit(fimble: Fimble, tmp_path: Path) -> None:
    config = models.known()["Qwen/Qwen2.5-Coder-32B"] | {"num_hidden_layers": 160}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    line = ("plan", "--base", tmp_path, "--gpu", "rtx-3090", "--method", "full")
    assert fimble(*line, "--json").report["changes"] == []
    assert "no settings make it fit" in fimble(*line).out


def test_a_base_is_a_folder_with_nothing_but_a_config(fimble: Fimble, tmp_path: Path) -> None:
    config = models.known()["bigcode/starcoderbase-1b"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    found = fimble("plan", "--base", tmp_path / "mine", "--gpu", "rtx-4090", "--json").report
    assert found["memory"] == fimble(*ONE, "--json").report["memory"]


def test_float32_on_a_gpu_has_no_time(fimble: Fimble) -> None:
    found = fimble(*ONE, "--dtype", "float32", "--json").report
    assert (found["hours"], found["dollars"]) == (None, None)
    assert "weights, 32 bits" in found["memory"]
    assert "time: not known" in fimble(*ONE, "--dtype", "float32").out


def test_arithmetic_on_this_machine_is_in_the_dtype_that_was_asked_for(fimble: Fimble) -> None:
    for dtype, bits in (("float32", 32), ("bfloat16", 16)):
        line = ("plan", "--base", "HuggingFaceTB/SmolLM2-135M", "--dtype", dtype, "--json")
        assert f"weights, {bits} bits" in fimble(*line).report["memory"]


def test_what_is_proposed_keeps_the_sequences_of_a_step() -> None:
    settings = TrainSettings(batch_size=6, gradient_accumulation=2, gradient_checkpointing=True)
    model = models.read("bigcode/starcoderbase-1b")
    whole = plan.predict("x", model, settings, Machine("x", 0.0, None))
    for size, accumulation in ((3, 4), (1, 12)):
        fewer = replace(settings, batch_size=size, gradient_accumulation=accumulation)
        room = plan.predict("x", model, fewer, whole.machine).bytes / plan.USABLE
        machine = replace(whole.machine, memory=room * 1.0001)
        wanted = plan.changes(plan.predict("x", model, settings, machine))
        assert wanted == [f"--batch-size {size}", f"--gradient-accumulation {accumulation}"]


def test_a_container_may_use_less_than_the_machine_has(
    fimble: Fimble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "CONTAINER_LIMIT", limit)
    for told in ("1000000000\n", "max\n"):
        limit.write_text(told, encoding="ascii")
        found = fimble("plan", "--base", "bigcode/starcoderbase-1b", "--json").report["machine"]["memory"]
        assert (found == 1e9) == told.startswith("1")


def test_this_machine(fimble: Fimble) -> None:
    found = fimble("plan", "--json").report
    assert found["machine"]["memory"] > 1e9
    assert {row["base"] for row in found["bases"]} == set(models.known())
    smallest = found["bases"][0]
    assert smallest["parameters"] == min(row["parameters"] for row in found["bases"])
    assert smallest["served"]
    assert smallest["training"]["fits"]
    here = fimble("plan", "--base", smallest["base"], "--json").report
    assert here["machine"]["memory"] == found["machine"]["memory"]


def test_a_hub_that_does_not_answer_is_asked_once(tmp_path: Path) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        hub = f"http://127.0.0.1:{unheard.getsockname()[1]}"
        environment = os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path)}
        command = [sys.executable, "-P", "-m", "toolchain.cli", "plan", "--base", "x/y", "--gpu", "l4-24gb"]
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()  # its client would tell each of its tries
    assert "config.json of x/y cannot be fetched from the model hub (" in line
    assert "Connection refused" in line


def test_a_quantized_base_is_no_more_planned_than_trained(fimble: Fimble, tmp_path: Path) -> None:
    config = models.known()["bigcode/starcoderbase-1b"] | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    fimble("plan", "--base", tmp_path, "--gpu", "rtx-4090").refused(f"the base {tmp_path} is quantized")


def test_what_cannot_be_planned_is_refused(fimble: Fimble) -> None:
    fimble("plan", "--base", "x/y", "--gpu", "rtx-4099").refused("there is no GPU 'rtx-4099'", "'rtx-4090'")
    fimble("plan", "--gpu", gpus.names()[0]).refused("there is no base to plan for")
    fimble("plan", "--base", "x/y", "--count", 2).refused("--count needs a GPU to count")
    fimble("plan", "--base", "nowhere", "--gpu", "l4-24gb").refused("the base nowhere is neither a folder nor a hub id")
    fimble(*ONE, "--sequence-length", 9000).refused("--sequence-length 9000 is more than the 8192 positions")
    fimble(*ONE, "--lora-target", "q_proj").refused("no layer of bigcode/starcoderbase-1b is called q_proj")
    fimble(*ONE, "--method", "by-magic").refused("--method cannot be 'by-magic'")
    fimble(*ONE, "--count", 0).refused("--count cannot be 0")
    fimble(*ONE, "--count", 2, "--optimizer", "adamw_8bit").refused("--optimizer adamw_8bit works on whole weights")
    mac = ("plan", "--base", "bigcode/starcoderbase-1b", "--gpu", "apple-16gb")
    fimble(*mac, "--optimizer", "adamw_8bit").refused("--optimizer adamw_8bit does not run on Apple's GPUs")
    fimble(*ONE, "--price", -1).refused("--price cannot be -1.0")
