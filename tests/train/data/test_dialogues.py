"""Files of dialogues in every shape to one dataset of messages, without duplicates and without leaks between sides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolchain.contracts import manifest
from toolchain.contracts.errors import SettingsError, SourceError, StageError
from toolchain.contracts.manifest import Manifest
from toolchain.contracts.progress import Silent
from toolchain.contracts.stage import execute, is_current

pytestmark = pytest.mark.train
pytest.importorskip("pyarrow", reason="needs the train extra")

from train.data import dialogues as stage
from train.data.settings import DialogueSettings

Turns = list[tuple[str, str]]
ASKED: Turns = [
    ("user", "How do I\nsort?"),
    ("assistant", "Use sorted().\n"),
    ("user", "And back?"),
    ("assistant", "ö"),
]
SHORT: Turns = [("system", "Be short."), ("user", "Hi"), ("assistant", "Hello <|endoftext|>")]


def write_lines(path: Path, *lines: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    return path


def openai(turns: Turns) -> dict[str, Any]:
    return {"id": 1, "messages": [{"role": role, "content": content} for role, content in turns]}


def sharegpt(turns: Turns) -> dict[str, Any]:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return {"conversations": [{"from": names[role], "value": content} for role, content in turns]}


def many(count: int, say: str = "answer") -> list[dict[str, Any]]:
    return [openai([("user", f"question {n}"), ("assistant", f"{say} {n}")]) for n in range(count)]


def make(out: Path, *files: Path, **settings: Any) -> Manifest:
    return execute(stage.plan(files, DialogueSettings(**settings)), out, Silent())


def rows(out: Path, split: str) -> list[dict[str, Any]]:
    import pyarrow.parquet

    tables = [pyarrow.parquet.read_table(path) for path in sorted((out / "data").glob(f"{split}-*.parquet"))]
    found: list[dict[str, Any]] = pyarrow.concat_tables(tables).to_pylist()
    return found


def everything(out: Path) -> list[Turns]:
    found = sorted(rows(out, "train") + rows(out, "heldout"), key=lambda row: (row["source"], row["line"]))
    return [[(m["role"], m["content"]) for m in row["messages"]] for row in found]


def test_every_shape_becomes_the_same_messages(tmp_path: Path) -> None:
    guanaco = {"text": "### Human: How do I\nsort?### Assistant: Use sorted().\n### Human: And back?### Assistant: ö"}
    lima = {"conversations": [content for _, content in ASKED], "source": "x"}
    for number, shape in enumerate((openai(ASKED), sharegpt(ASKED), lima, guanaco)):
        file = write_lines(tmp_path / str(number) / "d.jsonl", shape, "", openai(SHORT), sharegpt(SHORT))
        made = make(tmp_path / f"out{number}", file)
        stripped = [(role, text.strip() if shape is guanaco else text) for role, text in ASKED]
        assert everything(tmp_path / f"out{number}") == [stripped, SHORT]
        assert made.facts["dropped"] == {"duplicate": 1}
        assert made.facts["dialogues"] == {"train": 1, "heldout": 1}
        assert made.facts["holds"] == "dialogues"
        assert manifest.verify(tmp_path / f"out{number}") == []


def test_the_counts_are_those_of_what_was_written(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "d.jsonl", openai(ASKED), *many(200))
    facts = make(tmp_path / "out", file, heldout_fraction=0.2).facts
    for split in ("train", "heldout"):
        found = rows(tmp_path / "out", split)
        said = [message for row in found for message in row["messages"]]
        assert facts["dialogues"][split] == len(found)
        assert facts["answers"][split] == sum(message["role"] == "assistant" for message in said)
        assert facts["bytes"][split] == sum(len(message["content"].encode()) for message in said)
    assert 20 < facts["dialogues"]["heldout"] < 60
    assert [source["dialogues"] for source in facts["sources"]] == [201]


def test_dialogues_that_begin_alike_are_on_one_side_and_duplicates_go(tmp_path: Path) -> None:
    files = [
        write_lines(tmp_path / "a" / "d.jsonl", *many(60)),
        write_lines(tmp_path / "b" / "d.jsonl", *many(60, "another"), *many(60)),
        write_lines(
            tmp_path / "c.jsonl",
            *(openai([("system", "Be short."), ("user", f"question {n}"), ("assistant", "x")]) for n in range(60)),
        ),
    ]
    facts = make(tmp_path / "out", *files, heldout_fraction=0.3).facts
    assert facts["dropped"] == {"duplicate": 60}
    assert [source["name"] for source in facts["sources"]] == ["c.jsonl", "d.jsonl", "d.jsonl-2"]

    def openings(split: str) -> set[str]:
        return {
            next(m["content"] for m in row["messages"] if m["role"] == "user") for row in rows(tmp_path / "out", split)
        }

    train, held = openings("train"), openings("heldout")
    assert train | held == {f"question {n}" for n in range(60)}
    assert not train & held
    assert facts["dialogues"] == {"train": 3 * len(train), "heldout": 3 * len(held)}


def test_the_same_files_give_the_same_bytes_in_any_order_and_are_current(tmp_path: Path) -> None:
    one, other = write_lines(tmp_path / "one.jsonl", *many(9)), write_lines(tmp_path / "other.jsonl", openai(ASKED))
    digest = make(tmp_path / "x", one, other).digest
    assert make(tmp_path / "y", other, one, one).digest == digest
    assert is_current(stage.plan([one, other], DialogueSettings()), tmp_path / "x")
    write_lines(other, openai(SHORT))
    assert not is_current(stage.plan([one, other], DialogueSettings()), tmp_path / "x")


def test_what_is_of_no_use_is_left_out_and_counted(tmp_path: Path) -> None:
    lines = [
        openai([("user", "only asked")]),
        openai([]),
        openai([("assistant", "I begin"), ("user", "x"), ("assistant", "y")]),
        openai([("user", "a"), ("user", "b"), ("assistant", "c")]),
        openai([("user", "a"), ("system", "late"), ("assistant", "c")]),
        openai([("user", "a"), ("assistant", " \n")]),
        openai([*ASKED, ("user", "and?")]),
        openai(SHORT),
    ]
    facts = make(tmp_path / "out", write_lines(tmp_path / "d.jsonl", *lines)).facts
    assert facts["dropped"] == {"user and assistant do not alternate": 3, "no answer": 2, "blank message": 1}
    assert everything(tmp_path / "out") == [[*ASKED, ("user", "and?")], SHORT]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| no answer | 2 |" in card


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[", "a JSON array begins here"),
        ("[]", "a JSON array"),
        ("3", "no JSON object"),
        ({"prompt": "x"}, "none of messages, conversations or text"),
        ({"messages": "x"}, "its messages or conversations are no list"),
        ({"text": 5}, "its text is no text in quotes"),
        ({"messages": [{"role": "user", "content": "x"}, "y"]}, "message 2 is no object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "message 1 has the role 'tool'"),
        ({"messages": [{"content": "x"}]}, "message 1 has the role None"),
        ({"messages": [{"role": "user", "content": None}]}, "the content of message 1 is no text"),
        ({"conversations": ["x", 1]}, "message 1 is no object"),
        ({"text": "Hello"}, "does not begin with ### Human:"),
        ({"text": "x ### Human: y"}, "does not begin with ### Human:"),
    ],
)
def test_a_bad_line_is_told_with_its_file_and_number(tmp_path: Path, line: Any, wrong: str) -> None:
    file = write_lines(tmp_path / "d.jsonl", openai(ASKED), "", line, openai(SHORT))
    with pytest.raises(SourceError) as caught:
        make(tmp_path / "out", file)
    assert caught.value.message.startswith(f"{file}:3: ")
    assert wrong in caught.value.message
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_files_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no file of dialogues"):
        stage.plan([], DialogueSettings())
    with pytest.raises(SourceError, match=r"none\.jsonl cannot be read"):
        stage.plan([tmp_path / "none.jsonl"], DialogueSettings())
    with pytest.raises(SourceError, match="cannot be read"):
        stage.plan([tmp_path], DialogueSettings())
    one = write_lines(tmp_path / "one.jsonl", openai(ASKED), openai([("user", "x")]), openai(ASKED[:2]))
    with pytest.raises(SourceError, match="needs two dialogues that begin otherwise, and has 1, 1 left out: no answer"):
        make(tmp_path / "out", one)
    changing = write_lines(tmp_path / "two.jsonl", *many(3))
    plan = stage.plan([changing], DialogueSettings())
    write_lines(changing, *many(4))
    with pytest.raises(StageError, match="changed while it was read"):
        execute(plan, tmp_path / "out", Silent())


def test_secrets_are_replaced_and_broken_characters_too(tmp_path: Path) -> None:
    secret = "ghp_" + "a" * 36
    lines = [openai([("user", f"my token is {secret}"), ("assistant", "\ud800!")]), openai(SHORT)]
    file = write_lines(tmp_path / "d.jsonl", *lines)
    assert make(tmp_path / "out", file).facts["secrets_redacted"] == {"GitHub token": 1}
    assert everything(tmp_path / "out")[0] == [
        ("user", "my token is <redacted GitHub token>"),
        ("assistant", "\ufffd!"),
    ]
    make(tmp_path / "kept", file, redact_secrets=False)
    assert everything(tmp_path / "kept")[0][0] == ("user", f"my token is {secret}")


def test_code_is_not_learnt_from_dialogues(tmp_path: Path) -> None:
    from train.scratch import plan_scratch
    from train.scratch_settings import ScratchSettings

    make(tmp_path / "out", write_lines(tmp_path / "d.jsonl", *many(3)))
    with pytest.raises(SettingsError, match="out holds dialogues, and this training needs code"):
        plan_scratch(tmp_path / "out", ScratchSettings())


def test_datasets_loads_it_in_the_form_that_trl_trains_on(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the train extra")
    made = make(tmp_path / "out", write_lines(tmp_path / "d.jsonl", openai(ASKED), *many(30)))
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} == made.facts["dialogues"]
    assert loaded["train"][1]["messages"][0].keys() == {"role", "content"}
