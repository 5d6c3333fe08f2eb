"""Publishing an artifact to a Hugging Face hub, with a card that says what it came from.

The only command that sends anything out, and only what was named: the files of the manifest, the manifest and the card.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolchain import inspection
from toolchain.contracts import extras, manifest
from toolchain.contracts.errors import ArtifactError, SettingsError, StageError
from toolchain.contracts.manifest import MANIFEST, Manifest
from toolchain.contracts.progress import Progress

CARD = "README.md"
LIBRARIES = {"adapter": "peft", "checkpoint": "transformers", "bundle": "mlc-llm"}
USES = {
    "adapter": "fimble merge ADAPTER --base BASE --out checkpoint",
    "checkpoint": "fimble compile CHECKPOINT --out bundle",
    "bundle": "fimble serve BUNDLE",
}


def push(folder: Path, repository: str, public: bool, message: str, progress: Progress) -> str:
    """Put the artifact at `folder` into `repository` (owner/name) in one commit, and give its address.

    A repository that does not exist is made, private unless `public`; of one that does, the visibility stays. Raises
    ArtifactError for a damaged folder, SettingsError for a name that is none, StageError with the hub's own words.
    """
    extras.need("huggingface_hub")
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise SettingsError(f"'{repository}' names no repository on a hub", "Write it as owner/name.")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise SettingsError(f"'{repository}' cannot be a repository's name ({error})", "Choose another.") from None
    if get_token() is None:
        raise SettingsError("there is no token for the hub", "Set HF_TOKEN, or run: hf auth login")
    report = inspection.describe(folder, verify=True)
    if report["problems"]:
        raise ArtifactError(f"{folder} is damaged: {report['problems'][0]}", "Make it again before publishing it.")
    found = manifest.read(folder)
    paths = [file.path for file in found.files if file.path != CARD]
    contents: list[tuple[str, Path | bytes]] = [(path, folder / path) for path in (*paths, MANIFEST)]
    own = folder / CARD
    contents.append((CARD, own if own.is_file() else card(found, report["ancestry"]).encode()))
    kind = "dataset" if found.kind == "dataset" else "model"
    api = HfApi()
    progress.start(f"publishing {len(contents)} files, {sum(file.size for file in found.files):,} bytes")
    try:
        url = api.create_repo(repository, repo_type=kind, private=not public, exist_ok=True)
        operations = [CommitOperationAdd(path, content) for path, content in contents]
        api.create_commit(repository, operations, commit_message=message, repo_type=kind)
    except HfHubHTTPError as error:
        raise _refused(error.response.status_code, error.server_message, api.endpoint) from None
    except (json.JSONDecodeError, LookupError):  # no JSON, or none of a hub's
        raise _no_hub(api.endpoint) from None
    except ValueError as error:
        raise StageError(f"this cannot be published: {str(error).splitlines()[0]}") from None
    except Exception as error:  # which HTTP library it uses, and so what that raises, differs by release
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        raise StageError(
            f"the hub cannot be reached ({told})", "Check the network and HF_ENDPOINT, and run the command again."
        ) from None
    progress.finish()
    return str(url)


def _refused(status: int, told: str | None, address: str) -> StageError:
    """What a reply with this status means. A hub says why in words of its own; other servers, and proxies, do not."""
    if status in (401, 403):
        return StageError(f"the hub refused: {told or status}", "Check HF_TOKEN and that it may write there.")
    if status == 429 or status >= 500:
        return StageError(f"the hub cannot do it now: {told or status}", "Run the command again later.")
    if told is None:
        return _no_hub(address)
    return StageError(f"the hub refused: {told}", f"Its answer was {status}; change what it names, and run again.")


def _no_hub(address: str) -> StageError:
    return StageError(
        f"{address} answers, but not as a hub does", "Check HF_ENDPOINT; unset, it is Hugging Face's hub."
    )


def card(found: Manifest, ancestry: list[dict[str, Any]]) -> str:
    """The page of an artifact on a hub, as Markdown behind the hub's metadata; a dataset brings its own."""
    facts = found.facts
    learnt = "chat" if "chat" in facts else "fill-in-the-middle"
    names = ("code", learnt, "fimble", str(facts.get("family", "")))
    tags = "".join(f"\n- {name}" for name in names if name)
    lines = [
        f"---\nlibrary_name: {LIBRARIES[found.kind]}\npipeline_tag: text-generation\ntags:{tags}\n---",
        f"# {facts.get('name', found.kind)}",
        f"A{'n' if found.kind == 'adapter' else ''} {found.kind} made by fimble {found.tool_version} on "
        f"{found.created[:10]}; its digest is `{found.digest[:16]}`.",
        f"```\n{USES[found.kind]}\n```",
    ]
    held_out = facts.get("held_out")
    if held_out:
        start, end = held_out["start"], held_out["end"]
        lines += [
            "## Held-out answers" if "chat" in facts else "## Held-out code",
            f"Loss {start['loss']:.3f} → {end['loss']:.3f} nats a token, {start['bits_per_byte']:.3f} → "
            f"{end['bits_per_byte']:.3f} bits a byte, before and after training.",
        ]
    lines += ["## Made from", "\n".join(_origins(ancestry)) or "Nothing that is recorded."]
    plain = {
        name: value for name, value in facts.items() if name not in ("loss_curve", "training_curve", "held_out", "name")
    }
    lines += ["## Facts", _table(plain), "## Settings", _table(found.settings)]
    return "\n\n".join(lines) + "\n"


def _origins(ancestry: list[dict[str, Any]], indent: str = "") -> Iterator[str]:
    """The artifacts it was made from, and the repositories of datasets that lie near by."""
    for parent in ancestry:
        yield f"{indent}- {parent['role'] or parent['kind']} `{parent['digest'][:16]}`"
        near = Path(parent["folder"]) if parent["folder"] else None
        if near and parent["kind"] == "dataset":
            for repository in manifest.read(near).facts.get("repositories", []):
                version = repository.get("commit") or repository.get("content") or ""
                licence = repository.get("license") or "no licence found"
                yield f"{indent}  - {repository['name']} `{version[:12]}`, {licence}"
        yield from _origins(parent["parents"], indent + "  ")


def _table(values: dict[str, Any]) -> str:
    rows = (f"| {name} | `{_cell(value)}` |" for name, value in values.items())
    return "\n".join(["| | |", "|---|---|", *rows])


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[`\s]+", " ", text).replace("|", r"\|")
