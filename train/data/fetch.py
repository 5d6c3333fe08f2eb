"""A remote Git repository: fetched bare into the cache, one folder a commit, without its history."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dulwich.client import get_transport_and_path
from dulwich.config import ConfigDict
from dulwich.repo import Repo

from toolchain.contracts.errors import SourceError
from toolchain.contracts.progress import Progress

TIMEOUT_SECONDS = 60
SCHEMES = ("https", "http", "ssh", "git+ssh", "git", "file")
_SCP_LIKE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*@[A-Za-z0-9][A-Za-z0-9.-]*:(?!//)\S+")
_USER_INFO = re.compile(r"(?<=://)[^/@\s]*@")


def is_url(spec: str) -> bool:
    """Whether a source is an address rather than a path. Raises SourceError for a scheme that Git does not have."""
    scheme, separator, _ = spec.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+", scheme):
        return _SCP_LIKE.fullmatch(spec) is not None
    if scheme.lower() not in SCHEMES:
        raise SourceError(
            f"{without_credentials(spec)} is not an address of a Git repository", f"Use one of: {', '.join(SCHEMES)}."
        )
    return True


def without_credentials(text: str) -> str:
    """`text` with the user and password of any address in it removed."""
    return _USER_INFO.sub("", text)


def name_of(url: str) -> str:
    """`owner/name` of a remote repository; of a file:// address the last folder alone, which is this machine's."""
    local = url.lower().startswith("file:")
    path = urlsplit(url).path if "://" in url else url.partition(":")[2]
    parts = [part for part in path.strip("/").removesuffix(".git").split("/") if part and not part.startswith("~")]
    return "/".join(parts[-1:] if local else parts[-2:]) or urlsplit(url).hostname or "repository"


def fetch(url: str, cache: Path, progress: Progress) -> Path:
    """The bare repository in the cache that holds the commit to which the remote HEAD points now.

    When that cannot be had now, the one that was current at the last visit, if there was any.
    """
    shown = without_credentials(url)
    shelf = cache / "git" / hashlib.sha256(shown.encode()).hexdigest()[:32]
    try:
        current = _fetch_head(url, shown, shelf)
    except _Unreachable as error:
        before = max(shelf.glob("[0-9a-f]*"), key=lambda folder: folder.stat().st_mtime, default=None)
        if before is None:
            raise SourceError(
                error.message, "Check the address, your access and the network, or name a clone on this machine."
            ) from error
        progress.say(f"warning: {error.message}; going on with commit {before.name[:12]}, fetched before")
        return before
    os.utime(current)  # the last one that was current is the newest
    return current


class _Unreachable(SourceError):
    pass


def _fetch_head(url: str, shown: str, shelf: Path) -> Path:
    try:
        config = ConfigDict()
        config.set((b"http",), b"timeout", str(TIMEOUT_SECONDS).encode())
        client, path = get_transport_and_path(url, config=config)
        head: bytes | None = client.get_refs(path.encode()).refs.get(b"HEAD")
    except Exception as error:  # dulwich, urllib3 and ssh fail each in their own way, all for the user to mend
        raise _unreachable(shown, url, error) from error
    if head is None:
        raise SourceError(f"{shown} has no commits", "Push something first, or name another repository.")
    final = shelf / head.decode("ascii")
    if final.is_dir():
        return final
    shelf.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=shelf))
    try:
        try:
            _fetch_commit(client, path, head, partial)
        except Exception as error:
            raise _unreachable(shown, url, error) from error
        try:
            partial.rename(final)
        except OSError:
            if not final.is_dir():  # another process may have been first
                raise
        return final
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fetch_commit(client: Any, path: str, head: bytes, into: Path) -> None:
    repo = Repo.init_bare(str(into))
    try:
        client.fetch(path.encode(), repo, determine_wants=lambda refs, depth=None: [head], depth=1)
        repo.refs.set_symbolic_ref(b"HEAD", b"refs/heads/fetched")
        repo.refs[b"refs/heads/fetched"] = head
    finally:
        repo.close()


def _unreachable(shown: str, url: str, error: Exception) -> _Unreachable:
    detail = " ".join(without_credentials(_reason(error).replace(url, shown)).split())[:150].rstrip(".")
    password = urlsplit(url).password if "://" in url else None
    if password:
        detail = detail.replace(password, "…")
    return _Unreachable(f"{shown} cannot be fetched ({detail or type(error).__name__})")


def _reason(error: BaseException) -> str:
    """What the system said, where libraries have wrapped it several times; else what the library says."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return str(error)
