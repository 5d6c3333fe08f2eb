"""A merge is proved four ways: known values, the exact set of names, a strict load, and the same outputs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.train.tiny import load, opened, write_base
from toolchain.contracts import manifest
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.manifest import Parent, writing
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute
from train.adapters.merge import merged, plan_merge, to_16_bits
from train.adapters.peft_folder import DOWN, UP, open_adapter

pytestmark = pytest.mark.train

TARGETS = ["c_proj", "c_attn", "c_fc"]
LAYER = "transformer.h.1.mlp.c_fc"


@pytest.fixture(scope="module")
def adapter(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter by PEFT itself, with random weights in both matrices."""
    return write_adapter(base_folder, tmp_path_factory.mktemp("adapter") / "lora")


def write_adapter(base: Path, out: Path, **options: Any) -> Path:
    options = {"r": 4, "lora_alpha": 16, "target_modules": TARGETS} | options
    model = get_peft_model(load(base), LoraConfig(task_type="CAUSAL_LM", **options))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn_like(weight) * 0.05)
    model.save_pretrained(out)
    return out


def by_peft(base: Path, adapter: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = PeftModel.from_pretrained(load(base), adapter).merge_and_unload().state_dict()
    return state


def in_32_bits(base: Path, adapter: Path) -> dict[str, Tensor]:
    """What our arithmetic gives before it is rounded."""
    weights, changes = load_file(base / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    for name, update in open_adapter(adapter).updates.items():
        weights[name] = merged(weights[name], changes[update.stem + DOWN], changes[update.stem + UP], update.scale)
    return weights


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "r": 3},
        {"rank_pattern": {"c_fc": 2, r"h\.0\.attn\.c_attn": 6}, "alpha_pattern": {"mlp.c_proj": 5}},
    ],
    ids=["plain", "rank-stabilised", "patterns"],
)
def test_in_32_bits_the_merge_is_that_of_peft(base_folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    folder = write_adapter(base_folder, tmp_path / "lora", **options)
    ours, theirs = in_32_bits(base_folder, folder), by_peft(base_folder, folder)
    assert len(open_adapter(folder).updates) == 8
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=1e-6)


def test_known_values() -> None:
    weight, down, up = torch.zeros(2, 3), torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0], [10.0]])
    assert merged(weight, down, up, 0.5).tolist() == [[0.5, 1.0, 1.5], [5.0, 10.0, 15.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_merged_checkpoint_is_the_base_with_the_change(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = write_base(tmp_path / "base", dtype)
    lora = write_adapter(folder, tmp_path / "lora")
    base = opened(folder)
    made = execute(plan_merge(lora, base), tmp_path / "out", Silent())

    weights, before = load_file(tmp_path / "out" / "model.safetensors"), load_file(folder / "model.safetensors")
    narrow = torch.bfloat16 if dtype == torch.bfloat16 else torch.float16
    assert weights.keys() == before.keys()
    assert {weight.dtype for weight in weights.values()} == {narrow}
    changed = {name for name in weights if not torch.equal(weights[name], before[name].to(narrow))}
    assert changed == set(open_adapter(lora).updates)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == str(narrow).removeprefix("torch.")

    strict = AutoModelForCausalLM.from_config(load(folder).config)
    missing, unexpected = strict.load_state_dict(load(tmp_path / "out").state_dict(), strict=True)
    assert not missing
    assert not unexpected
    ids = torch.arange(5, 69)[None]
    with torch.no_grad():
        ours, plain = load(tmp_path / "out")(ids).logits, load(folder)(ids).logits
        theirs = PeftModel.from_pretrained(load(folder), lora)(ids).logits
    rounding = 4e-3 if narrow == torch.float16 else 3e-2
    assert float((ours - theirs).abs().max()) < rounding
    assert float((plain - theirs).abs().max()) > 10 * rounding

    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in folder.iterdir()} | {"manifest.json"}
    assert [(parent.kind, parent.role) for parent in made.parents] == [("adapter", "adapter"), ("checkpoint", "base")]
    assert made.parents[1].digest == base.digest
    assert made.facts["merged_layers"] == 8


def test_shards_keep_their_names_and_tensors(base_folder: Path, adapter: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base_folder, tmp_path / "base")
    (folder / "model.safetensors").unlink()
    load(base_folder).save_pretrained(folder, max_shard_size="100KB")
    execute(plan_merge(adapter, opened(folder)), tmp_path / "out", Silent())
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(shards) > 3
    assert sorted(path.name for path in (tmp_path / "out").glob("*.safetensors")) == shards
    for name in shards:
        assert load_file(tmp_path / "out" / name).keys() == load_file(folder / name).keys()
    one, other = (
        json.loads((place / "model.safetensors.index.json").read_text()) for place in (folder, tmp_path / "out")
    )
    assert one["weight_map"] == other["weight_map"]
    assert other["metadata"]["total_size"] * 2 == one["metadata"]["total_size"]
    whole = execute(plan_merge(adapter, opened(base_folder)), tmp_path / "whole", Silent())
    assert whole.facts["merged_layers"] == 8
    theirs = load(tmp_path / "whole").state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in load(tmp_path / "out").state_dict().items())


def test_an_adapter_of_ours_only_merges_into_its_own_base(base_folder: Path, adapter: Path, tmp_path: Path) -> None:
    base = opened(base_folder)
    for name, digest in (("right", base.digest), ("wrong", "0" * 64)):
        parents = (Parent(kind="checkpoint", digest=digest, role="base"),)
        with writing(tmp_path / name, kind="adapter", recipe=1, parents=parents, settings={}) as draft:
            shutil.copytree(adapter, draft.path, dirs_exist_ok=True)
            draft.facts["name"] = "starcoder"
    plan = plan_merge(tmp_path / "right", base)
    assert plan.parents[0].digest == manifest.read(tmp_path / "right").digest
    with pytest.raises(ArtifactError, match="was trained on starcoder with the digest 0000"):
        plan_merge(tmp_path / "wrong", base)


def tensors(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        found = load_file(path)
        change(found)
        save_file(found, path)

    return apply


def config(**values: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return apply


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    torch.save({}, folder / "adapter_model.bin")


def cut_short(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


KEY = f"base_model.model.{LAYER}"
OTHER = "base_model.model.other"
REFUSED: list[tuple[Callable[[Path], Any], str]] = [
    (pickled, "pickle, which can run code"),
    (cut_short, "truncated or damaged"),
    (config(use_dora=True), "is a DoRA adapter and lacks the magnitudes"),
    (config(peft_type="LOHA"), "LOHA, not LoRA"),
    (config(modules_to_save=["lm_head"]), "modules_to_save"),
    (config(bias="all"), "bias='all'"),
    (config(r=8), "has rank 4, and adapter_config.json says 8"),
    (config(r=None), "no usable rank"),
    (lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot be read"),
    (lambda folder: (folder / "adapter_config.json").unlink(), "has no adapter_config.json"),
    (tensors(lambda found: found.pop(KEY + DOWN)), "lacks one of the two matrices"),
    (tensors(lambda found: found.update({"base_model.model.x.weight": torch.zeros(1)})), "no weight of a linear"),
    (tensors(lambda found: found.clear()), "holds no weights"),
    (
        tensors(lambda found: found.update({f"{OTHER}{part}": found[KEY + part].clone() for part in (DOWN, UP)})),
        "changes other.weight, which tiny-base does not have",
    ),
    (tensors(lambda found: found.update({KEY + UP: torch.zeros(8, 4)})), "c_fc.weight of 8 x 64, and tiny-base one of"),
    (tensors(lambda found: found[KEY + UP].fill_(float("nan"))), "c_fc.lora_B.weight holds NaN"),
    (tensors(lambda found: found[KEY + UP].fill_(1e9)), r"c_fc\.weight holds .* beyond float16"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_a_bad_adapter_is_refused_by_name(
    base_folder: Path, adapter: Path, tmp_path: Path, change: Callable[[Path], Any], message: str
) -> None:
    folder = shutil.copytree(adapter, tmp_path / "lora")
    change(folder)
    with pytest.raises(ArtifactError, match=message) as caught:
        execute(plan_merge(folder, opened(base_folder)), tmp_path / "out", Silent())
    assert caught.value.next_step
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_in_place_of_an_adapter_is_told_apart(base_folder: Path) -> None:
    with pytest.raises(ArtifactError, match="is a whole checkpoint, not an adapter"):
        plan_merge(base_folder, opened(base_folder))


def test_what_does_not_fit_16_bits_is_refused_by_name() -> None:
    assert to_16_bits("w", torch.tensor([1.5])).dtype == torch.float16
    assert to_16_bits("w", torch.tensor([1e30], dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert to_16_bits("w", torch.tensor([3])).dtype == torch.int64
    with pytest.raises(ArtifactError, match=r"wte holds 70000, which is beyond float16"):
        to_16_bits("wte", torch.tensor([70000.0]))
    with pytest.raises(ArtifactError, match="wte holds NaN"):
        to_16_bits("wte", torch.tensor([float("nan")]))
