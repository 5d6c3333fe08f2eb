"""A base that cannot fill in the middle learns to: only the rows of its new tokens are trained beside the adapter."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

from tests.train.tiny import FULL, LORA, failed_and_resumed, load, opened, same, write_base_without_fim
from tests.train.two_processes import job, told, torchrun
from toolchain.contracts import architectures, manifest
from toolchain.contracts.errors import ArtifactError, FimTokenError, SettingsError
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute
from toolchain.planning import models
from toolchain.planning.memory import trained_parameters
from train.adapters.merge import plan_merge, with_rows
from train.bases import token_rows
from train.fine_tune import plan_train
from train.run.cross_entropy import scaled_loss, token_losses
from train.settings import TrainSettings

pytestmark = pytest.mark.train

TOKENS = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
BASES: dict[str, dict[str, Any]] = {"tied": {}, "untied": {"tied": False}, "spare": {"spare": 2}, "room": {"spare": 7}}
ADAPTER = replace(LORA, add_fim_tokens=True)
CASES = {
    "tied": ("tied", ADAPTER),
    "untied": ("untied", ADAPTER),
    "spare": ("spare", ADAPTER),
    "room": ("room", ADAPTER),
    "qlora": ("tied", replace(ADAPTER, method="qlora", dtype="float32")),
    "qlora-untied": ("untied", replace(ADAPTER, method="qlora", dtype="float32")),
    "dora": ("tied", replace(ADAPTER, dora=True)),
    "pissa": ("tied", replace(ADAPTER, init="pissa", lora_dropout=0.0)),
    "checkpointing": ("tied", replace(ADAPTER, gradient_checkpointing=True)),
    "full": ("tied", replace(FULL, add_fim_tokens=True)),
    "full-untied": ("untied", replace(FULL, add_fim_tokens=True)),
}
ADAPTERS = [name for name, (_, settings) in CASES.items() if settings.adapts]


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("without-fim")
    return {name: write_base_without_fim(folder / name, **shape) for name, shape in BASES.items()}


@pytest.fixture(scope="session")
def trained(dataset: Path, bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("added")
    for name, (base, settings) in CASES.items():
        execute(plan_train(dataset, opened(bases[base]), settings), folder / name, Silent())
    return {name: folder / name for name in CASES}


@pytest.fixture(scope="session")
def merged(bases: dict[str, Path], trained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("merged")
    for name in ADAPTERS:
        execute(plan_merge(trained[name], opened(bases[CASES[name][0]])), folder / name, Silent())
    return {name: folder / name for name in ADAPTERS} | {n: trained[n] for n in CASES if n not in ADAPTERS}


def tokens_of(folder: Path) -> int:
    return len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])


def size_of(base: Path) -> int:
    return architectures.read(base).vocab_size


@pytest.mark.parametrize("name", CASES)
def test_the_held_out_loss_goes_down_and_the_facts_say_what_was_added(
    bases: dict[str, Path], trained: dict[str, Path], name: str
) -> None:
    base = bases[CASES[name][0]]
    facts = manifest.read(trained[name]).facts
    # Every held-out sample is fill-in-the-middle.
    assert facts["held_out"]["end"]["loss"] < facts["held_out"]["start"]["loss"] - 0.05
    first = tokens_of(base)
    assert facts["added_tokens"] == {token: first + number for number, token in enumerate(TOKENS)}
    assert facts["vocab_size"] == max(size_of(base), first + 3)
    assert facts["fim"]["pad"] is None
    assert (facts["fim"]["end_of_text"], facts["fim"]["orders"]) == ("<|endoftext|>", ["psm", "spm"])


@pytest.mark.parametrize("name", ADAPTERS)
def test_only_the_new_rows_are_trained_beside_the_adapter(
    bases: dict[str, Path], trained: dict[str, Path], name: str
) -> None:
    facts, weights = (manifest.read(trained[name]).facts, load_file(trained[name] / "adapter_model.safetensors"))
    rows = {key: weight for key, weight in weights.items() if key.endswith("token_adapter.trainable_tokens_delta")}
    prefix = "base_model.model."
    tables = ["model.embed_tokens"] + (["lm_head"] if "untied" in name else [])
    assert set(rows) == {f"{prefix}{table}.token_adapter.trainable_tokens_delta" for table in tables}
    assert {tuple(row.shape) for row in rows.values()} == {(3, 64)}
    names = {key.rsplit(".", 2)[-2] for key in weights if "lora" not in key}
    assert names <= {"token_adapter"}
    if not CASES[name][1].dora and CASES[name][1].init == "zero":
        adapter = sum(weight.numel() for key, weight in weights.items() if "lora" in key)
        assert facts["trained_parameters"] == adapter + 3 * 64 * len(tables)
        planned = TrainSettings(add_fim_tokens=True, lora_rank=CASES[name][1].lora_rank)
        shape = architectures.read(bases[CASES[name][0]])
        assert facts["trained_parameters"] == trained_parameters(shape, planned)


@pytest.mark.parametrize("name", ["tied", "untied", "spare", "room", "full", "full-untied"])
def test_a_plan_counts_the_rows_that_training_makes(
    bases: dict[str, Path], trained: dict[str, Path], name: str
) -> None:
    base, settings = bases[CASES[name][0]], CASES[name][1]
    facts, model = manifest.read(trained[name]).facts, architectures.read(base)
    grown = models.with_fim_tokens(str(base), model)
    assert grown.vocab_size == facts["vocab_size"]
    assert trained_parameters(grown, settings) == facts["trained_parameters"]
    # Without a tokenizer at hand no row is taken to be free.
    assert models.with_fim_tokens("owner/model", model).vocab_size == model.vocab_size + 3


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_losses_and_gradients_are_those_of_pefts_own_layers(bases: dict[str, Path], name: str) -> None:
    model = load(bases[name])
    ids = [tokens_of(bases[name]) + number for number in range(3)]
    token_rows.make_room(model, ids, ids[-1] + 1)
    tables = token_rows.trained_alone(model, ids)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], trainable_token_indices=tables)
    adapted = get_peft_model(model, config)
    network = adapted.get_base_model()
    text = torch.tensor([[ids[0], 5, 6, ids[1], 7, 8, 9, ids[2], 3, 4, 0]])
    trained = [weight for weight in adapted.parameters() if weight.requires_grad]

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(loss, trained, retain_graph=True))

    theirs = cross_entropy(adapted(text).logits[0, :-1], text[0, 1:], reduction="sum")
    rows = token_rows.of(network.get_input_embeddings())
    assert rows is not None
    hidden = network.base_model(inputs_embeds=token_rows.embedded(text, rows)).last_hidden_state[0, :-1]
    ours = scaled_loss(hidden, network.get_output_embeddings(), text[0, 1:], 1.0)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    for mine, its in zip(gradients(ours), gradients(theirs), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-6)
    each = token_losses(hidden, network.get_output_embeddings(), text[0, 1:])
    assert each.sum().item() == pytest.approx(theirs.item(), rel=1e-6)
    # No table of the base takes part in training.
    assert not any(weight.requires_grad for key, weight in adapted.named_parameters() if "base_layer.weight" in key)


@pytest.mark.parametrize("name", ["tied", "untied", "spare", "room", "qlora", "dora", "pissa"])
def test_a_merge_puts_the_rows_into_place_and_leaves_the_others(
    bases: dict[str, Path], trained: dict[str, Path], merged: dict[str, Path], name: str
) -> None:
    base, out = bases[CASES[name][0]], merged[name]
    before, after = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    rows = load_file(trained[name] / "adapter_model.safetensors")
    ids = list(manifest.read(trained[name]).facts["added_tokens"].values())
    assert before.keys() == after.keys()  # a tied head stays tied
    for table in ("model.embed_tokens", "lm_head"):
        if f"{table}.weight" in before:
            now, old = after[f"{table}.weight"], before[f"{table}.weight"].half()
            assert len(now) == max(len(old), ids[-1] + 1)
            kept = [number for number in range(len(old)) if number not in ids]
            assert torch.equal(now[kept], old[kept])
            assert torch.equal(now[ids], rows[f"base_model.model.{table}.token_adapter.trainable_tokens_delta"].half())
    facts = manifest.read(out).facts
    # A separator of files that the base has is nothing that this training taught it.
    assert facts["fim"] == manifest.read(trained[name]).facts["fim"]
    assert facts["fim"]["file_separator"] is None
    assert json.loads((out / "config.json").read_text())["vocab_size"] == len(after["model.embed_tokens.weight"])
    assert facts["parameters"] == sum(weight.numel() for weight in after.values())
    assert facts["merged_rows"] == 3


@pytest.mark.parametrize("name", CASES)
def test_the_checkpoint_has_the_loss_of_the_trainings_end(
    dataset: Path, trained: dict[str, Path], merged: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """Measured anew, as a base that has FIM tokens: so its tokenizer, its rows and its facts belong together."""
    out = shutil.copytree(merged[name], tmp_path / "copy", ignore=shutil.ignore_patterns("manifest.json"))
    base = opened(out)
    assert not base.lacks
    again = execute(plan_train(dataset, base, replace(LORA, max_steps=1, warmup_steps=1)), tmp_path / "again", Silent())
    held_out = manifest.read(trained[name]).facts["held_out"]
    gain = held_out["start"]["loss"] - held_out["end"]["loss"]
    # Over a base in 4 bits it was another model.
    rounding = 0.2 * gain if "qlora" in name else 2e-3
    assert again.facts["held_out"]["start"]["loss"] == pytest.approx(held_out["end"]["loss"], abs=rounding)


@pytest.mark.parametrize("name", ["tied", "untied", "spare"])
def test_peft_and_transformers_load_what_is_written(
    bases: dict[str, Path], trained: dict[str, Path], merged: dict[str, Path], name: str
) -> None:
    """As docs/training.md says."""
    tokenizer = AutoTokenizer.from_pretrained(trained[name])
    model = load(bases[CASES[name][0]])
    model.resize_token_embeddings(max(len(tokenizer), model.config.vocab_size), mean_resizing=False)
    adapted = PeftModel.from_pretrained(model, trained[name]).eval()
    ids = tokenizer("<fim_prefix>def f(<fim_suffix>)\n<fim_middle>x", return_tensors="pt").input_ids
    added = manifest.read(trained[name]).facts["added_tokens"]
    assert [number for number in ids[0].tolist() if number in added.values()] == list(added.values())
    with torch.no_grad():
        ours, theirs = load(merged[name])(ids).logits, adapted(ids).logits
    assert float((ours - theirs).abs().max()) < 4e-3
    for folder in (trained[name], merged[name]):
        read = AutoTokenizer.from_pretrained(folder)
        assert read.decode(ids[0], skip_special_tokens=True) == "def f()\nx"


def test_an_interrupted_run_ends_with_the_same_bits(
    dataset: Path, bases: dict[str, Path], trained: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("untied", "full"):
        base, settings = CASES[name]
        plan = plan_train(dataset, opened(bases[base]), settings)
        resumed = failed_and_resumed(plan, tmp_path / name)
        assert "Resuming after step 9 of 12" in resumed.lines
        assert same(tmp_path / name, trained[name])


@pytest.mark.parametrize("name", ["untied", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tied", "full"))])
def test_two_processes_reach_the_losses_of_one(
    dataset: Path, bases: dict[str, Path], tmp_path: Path, name: str
) -> None:
    base, settings = CASES[name]
    one = replace(settings, gradient_accumulation=2, lora_dropout=0.0, max_steps=8)
    two = replace(one, gradient_accumulation=1)
    execute(plan_train(dataset, opened(bases[base]), one), tmp_path / "alone", Silent())
    assert torchrun(dataset, bases[base], tmp_path, [job("together", two)]) == 0
    seen = told(tmp_path, "together")
    assert seen["moments sharded"]
    assert seen["whole"] == []
    mine, its = (manifest.read(tmp_path / place).facts for place in ("alone", "together"))
    for point, other in zip(mine["loss_curve"], its["loss_curve"], strict=True):
        assert other["loss"] == pytest.approx(point["loss"], abs=1e-3)
    assert its["trained_parameters"] == mine["trained_parameters"]
    assert its["held_out"]["end"]["loss"] < its["held_out"]["start"]["loss"] - 0.05
    (file,) = (tmp_path / "together").glob("*.safetensors")
    left, right = load_file(file), load_file(tmp_path / "alone" / file.name)
    assert {key: weight.shape for key, weight in left.items()} == {key: w.shape for key, w in right.items()}


def test_a_base_with_and_one_without_are_told_apart(
    dataset: Path, base_folder: Path, bases: dict[str, Path], trained: dict[str, Path]
) -> None:
    with pytest.raises(SettingsError, match="tiny-base has FIM tokens already"):
        plan_train(dataset, opened(base_folder), ADAPTER)
    with pytest.raises(
        FimTokenError, match=r"lacks the FIM token.s. <fim_prefix>, <fim_suffix>, <fim_middle>"
    ) as caught:
        plan_train(dataset, opened(bases["tied"]), LORA)
    assert "--add-fim-tokens" in caught.value.next_step
    with pytest.raises(SettingsError, match="--lora-target lm_head"):
        plan_train(dataset, opened(bases["untied"]), replace(ADAPTER, lora_target=("lm_head",)))
    for wrong in ({"fim_rate": 0.0}, {"spm_rate": 0.0}, {"spm_rate": 1.0}):
        with pytest.raises(SettingsError, match="samples of both orders"):
            TrainSettings(add_fim_tokens=True, **wrong)


def test_an_end_of_text_of_another_name_is_kept(bases: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(bases["tied"], tmp_path / "base")
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<|endoftext|>", "</s>"))
    base = opened(folder)
    assert base.spec.end_of_text == "</s>"
    assert base.lacks == TOKENS
    config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": None}
    (folder / "config.json").write_text(json.dumps(config))
    assert set(opened(folder).lacks) == {"<|endoftext|>", *TOKENS}


def test_rows_that_do_not_belong_are_refused(bases: dict[str, Path], trained: dict[str, Path], tmp_path: Path) -> None:
    def altered(name: str, indices: Any) -> Path:
        shutil.rmtree(tmp_path / "adapter", ignore_errors=True)
        folder = shutil.copytree(trained[name], tmp_path / "adapter", ignore=shutil.ignore_patterns("manifest.json"))
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"trainable_token_indices": indices}))
        return folder

    base = opened(bases["tied"])
    first = base.facts.vocab_size
    for indices in (None, [], [1, 1, 2], [1, 2], {"wte": [1, 2, 3]}, [1, 2, "3"]):
        with pytest.raises(ArtifactError, match=r"does not say which tokens the rows of model.embed_tokens"):
            plan_merge(altered("tied", indices), base)
    with pytest.raises(ArtifactError, match="does not hold the rows of all new ones"):
        plan_merge(altered("tied", [first, first + 1, first + 9]), base)
    folder = altered("tied", {"embed_tokens": [first, first + 1, first + 2]})
    plan_merge(folder, base)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FimTokenError, match="lacks the FIM token"):
        plan_merge(folder, base)


def test_known_values() -> None:
    table, rows = torch.tensor([[1.0], [2.0]]), torch.tensor([[7.0], [8.0]])
    assert with_rows(table, [2, 1], rows).tolist() == [[1.0], [8.0], [7.0]]


@pytest.mark.compile
@pytest.mark.parametrize("name", ["tied", "full-untied"])
def test_the_whole_road_ends_with_completions_in_the_middle(merged: dict[str, Path], tmp_path: Path, name: str) -> None:
    from compile.bundle import plan_compile
    from compile.settings import CompileSettings
    from serve.backends.native import open_native
    from serve.bundle import open_bundle
    from serve.completer import Completer
    from serve.requests import CompletionRequest
    from tests.serve.conftest import serving

    checkpoint = opened(merged[name])
    plan = plan_compile(checkpoint.folder, checkpoint.parent, CompileSettings(quantization="q0f32"))
    execute(plan, tmp_path / "bundle", Silent())
    bundle = open_bundle(tmp_path / "bundle")
    backend = open_native(bundle, Silent())
    completer = Completer(bundle, backend)
    prefix, suffix, spec = "def f(a, ", "):\n    return a\n", bundle.spec
    prompt, _ = completer.prompt(CompletionRequest(prefix, suffix, max_tokens=4))
    names = [bundle.tokenizer.id_to_token(number) for number in prompt]
    assert names[:2] == [spec.prefix, spec.suffix]  # suffix first
    assert names.count(spec.middle) == 1
    with torch.no_grad():
        expected = load(merged[name])(torch.tensor([prompt])).logits[0, -1]
    found = torch.from_numpy(backend.engine.runner.forward(prompt, 0).copy())
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-2)
    spelt = f"<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>"
    with serving(completer) as client:
        texts = []
        for body in ({"prompt": prefix, "suffix": suffix}, {"prompt": spelt}):
            asked = body | {"max_tokens": 4, "temperature": 0}
            reply = client.post("/v1/completions", json=asked).raise_for_status().json()
            assert reply["usage"]["prompt_tokens"] == len(prompt)
            texts.append(reply["choices"][0]["text"])
    assert texts[0] == texts[1]
    assert not any(token in texts[0] for token in TOKENS)
