"""A remote Git repository: fetched bare into the cache, one folder a commit, without its history."""

from __future__ import annotations

import hashlib
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


def fetch(url: str, cache: Path) -> Path:
    """The bare repository in the cache that holds the commit to which the remote HEAD points now."""
    shown = without_credentials(url)
    try:
        config = ConfigDict()
        config.set((b"http",), b"timeout", str(TIMEOUT_SECONDS).encode())
        client, path = get_transport_and_path(url, config=config)
        head: bytes | None = client.get_refs(path.encode()).refs.get(b"HEAD")
    except Exception as error:  # dulwich, urllib3 and ssh fail each in their own way, all for the user to mend
        raise _unreachable(shown, url, error) from error
    if head is None:
        raise SourceError(f"{shown} has no commits", "Push something first, or name another repository.")
    shelf = cache / "git" / hashlib.sha256(shown.encode()).hexdigest()[:32]
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


def _unreachable(shown: str, url: str, error: Exception) -> SourceError:
    detail = " ".join(without_credentials(str(error).replace(url, shown)).split())[:300]
    password = urlsplit(url).password if "://" in url else None
    if password:
        detail = detail.replace(password, "…")
    return SourceError(
        f"{shown} cannot be fetched ({type(error).__name__}{': ' + detail if detail else ''})",
        "Check the address, your access and the network, or name a clone on this machine.",
    )
