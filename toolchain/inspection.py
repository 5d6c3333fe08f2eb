"""What an artifact is and where it came from."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from toolchain.contracts import manifest
from toolchain.contracts.errors import ArtifactError
from toolchain.contracts.manifest import Kind, Manifest


def describe(folder: Path, verify: bool) -> dict[str, Any]:
    """The manifest, its ancestry as far as it lies near by, and what has changed since.

    Only `verify` reads the files; without it, what is missing or has another size is found.
    """
    found = manifest.read(folder)
    report = found.model_dump() | {"ancestry": ancestry(found, _near(folder))}
    if verify:
        report["problems"] = manifest.verify(folder)
        return report
    try:
        manifest.check_files(folder, found)
    except ArtifactError as error:
        report["problems"] = [error.message]
    return report


def ancestry(child: Manifest, near: dict[str, tuple[Path, Manifest]]) -> list[dict[str, Any]]:
    """The parents, each with its own; `folder` is None for one that does not lie near by."""
    parents = []
    for parent in child.parents:
        folder, known = near.get(parent.digest, (None, None))
        parents.append(
            {
                "kind": parent.kind,
                "role": parent.role,
                "digest": parent.digest,
                "folder": str(folder) if folder else None,
                "parents": ancestry(known, near) if known else [],
            }
        )
    return parents


def lines(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    shown = [f"{report['kind']} {report['digest'][:16]}, made {report['created']} by fimble {report['tool_version']}"]
    shown += [f"  {name}: {_short(value)}" for name, value in report["facts"].items()]
    shown += ["settings:", *(f"  {name}: {_short(value)}" for name, value in report["settings"].items())]
    shown += [f"files: {len(report['files'])}, {sum(file['size'] for file in report['files']):,} bytes"]
    shown += ["made from:", *_tree(report["ancestry"], "  ")] if report["ancestry"] else []
    if "problems" in report:
        shown += report["problems"] or ["every file is as it was written"]
    return shown


def _tree(parents: list[dict[str, Any]], indent: str) -> list[str]:
    shown = []
    for parent in parents:
        shown.append(f"{indent}{parent['role'] or parent['kind']} {parent['digest'][:16]}  {parent['folder'] or ''}")
        shown += _tree(parent["parents"], indent + "  ")
    return shown


def _near(folder: Path) -> dict[str, tuple[Path, Manifest]]:
    """Artifacts beside this one, and in a workspace those of the other kinds, by digest."""
    beside = folder.resolve().parent
    near = {}
    for path in beside.parent.glob("*/*") if beside.name in get_args(Kind) else beside.glob("*"):
        with suppress(ArtifactError):  # other people's folders may lie here too
            known = manifest.read(path)
            near[known.digest] = (path, known)
    return near


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 160 else text[:157] + "..."
