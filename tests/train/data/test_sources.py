from __future__ import annotations

import json
import os
import sys
import threading
import time

import pytest

from tests.train.data.repositories import commit_files, module, write_files
from tests.train.tiny import Lines
from toolchain.contracts.errors import SourceError, StageError
from toolchain.contracts.progress import Silent

pytestmark = pytest.mark.train
pytest.importorskip("dulwich", reason="needs the train extra")

from train.data import sources
from train.data.fetch import is_url, name_of, without_credentials


def open_source(spec, cache, progress=None):
    return sources.open_source(spec, cache, progress or Silent())


def paths(source):
    return [entry.path for entry in source.entries]


def contents(source):
    return {entry.path: source.read(entry) for entry in source.entries}


def test_git_reads_the_commit_and_not_the_working_tree(tmp_path):
    commit = commit_files(tmp_path / "tool", {"a.py": b"committed\r\n", "src/b.py": b"x"})
    write_files(tmp_path / "tool", {"a.py": b"changed", "new.py": b"new"})
    source = open_source(str(tmp_path / "tool"), tmp_path / "cache")
    assert source.identity() == {"name": "tool", "kind": "git", "commit": commit}
    assert contents(source) == {"a.py": b"committed\r\n", "src/b.py": b"x"}


def test_bare_repository_and_linked_worktree(tmp_path):
    commit = commit_files(tmp_path / "tool.git", {"a.py": b"a"}, bare=True)
    source = open_source(str(tmp_path / "tool.git"), tmp_path / "cache")
    assert source.identity() == {"name": "tool", "kind": "git", "commit": commit}

    commit_files(tmp_path / "main", {"m.py": b"m"})
    control = tmp_path / "main" / ".git" / "worktrees" / "side"
    head = (tmp_path / "main" / ".git" / "HEAD").read_bytes()
    write_files(control, {"HEAD": head, "commondir": b"../..\n", "gitdir": f"{tmp_path}/side/.git\n".encode()})
    write_files(tmp_path / "side", {".git": f"gitdir: {control}\n".encode()})
    assert paths(open_source(str(tmp_path / "side"), tmp_path / "cache")) == ["m.py"]


def test_a_folder_in_a_repository_is_its_committed_part(tmp_path):
    commit = commit_files(tmp_path / "tool", {"a.py": b"a", "src/b.py": b"b", "LICENSE": b"MIT"})
    write_files(tmp_path / "tool", {"src/new.py": b"n", "scratch/c.py": b"c"})
    source = open_source(str(tmp_path / "tool" / "src"), tmp_path / "cache")
    assert source.identity() == {"name": "src", "kind": "git", "commit": commit, "folder": "src"}
    assert paths(source) == ["b.py"]
    assert open_source(str(tmp_path / "tool" / "scratch"), tmp_path / "cache").identity()["kind"] == "folder"


def test_hostile_trees_are_read_without_harm(tmp_path):
    commit_files(
        tmp_path / "tool",
        {"good.py": b"g", "node_modules/x/y.js": b"v", "env/pyvenv.cfg": b"", "env/lib/z.py": b"z"},
        links={"loop": b"loop", "out.py": b"/etc/passwd"},
        submodules=("vendor",),
        raw={b"bad\xff.py": b"1", b"line\nbreak.py": b"2", b"..": b"3"},
    )
    hook = tmp_path / "tool" / ".git" / "hooks" / "post-checkout"
    write_files(hook.parent, {hook.name: f"#!/bin/sh\ntouch {tmp_path}/ran\n".encode()})
    hook.chmod(0o755)
    source = open_source(str(tmp_path / "tool"), tmp_path / "cache")
    assert paths(source) == ["good.py"]
    assert source.skipped == {
        "symbolic link": 2,
        "submodule": 1,
        "unusable name": 3,
        "folder of dependencies or caches": 2,
    }
    contents(source)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["missing", "empty name", "file", "empty folder", "no commits", "broken", "scheme"])
def test_what_cannot_be_read_says_what_to_do(tmp_path, kind):
    from dulwich.repo import Repo

    spec = str(tmp_path / "it")
    if kind == "file":
        (tmp_path / "it").write_text("x")
    elif kind == "empty name":
        spec = " "
    elif kind == "empty folder":
        (tmp_path / "it").mkdir()
    elif kind == "no commits":
        Repo.init(spec, mkdir=True).close()
    elif kind == "broken":
        write_files(tmp_path / "it", {".git": b"gitdir: /nowhere\n"})
    elif kind == "scheme":
        spec = "ftp://example.org/x"
    with pytest.raises(SourceError) as caught:
        open_source(spec, tmp_path / "cache")
    assert caught.value.next_step


def test_missing_objects_are_an_error(tmp_path):
    commit_files(tmp_path / "tool", {"a.py": b"a"})
    source = open_source(str(tmp_path / "tool"), tmp_path / "cache")
    pin = source.entries[0].pin
    (tmp_path / "tool" / ".git" / "objects" / pin[:2] / pin[2:]).unlink()
    with pytest.raises(StageError, match=r"cannot be read \(an object is missing\)"):
        source.read(source.entries[0])


def test_file_url_is_fetched_into_the_cache_once(tmp_path):
    commit_files(tmp_path / "remote" / "tool", {"a.py": b"one"})
    commit = commit_files(tmp_path / "remote" / "tool", {"a.py": b"two"})
    url, cache = (tmp_path / "remote" / "tool").as_uri(), tmp_path / "cache"
    source = open_source(url, cache)
    assert source.identity() == {"name": "tool", "kind": "git", "commit": commit}
    assert contents(source) == {"a.py": b"two"}
    before = sorted(path for path in cache.rglob("*"))
    assert open_source(url, cache).identity() == source.identity()
    assert sorted(path for path in cache.rglob("*")) == before
    assert not any(".partial" in path.name for path in before)

    moved = commit_files(tmp_path / "remote" / "tool", {"a.py": b"three"})
    assert open_source(url, cache).identity()["commit"] == moved


def test_unreachable_remote_hides_credentials(tmp_path):
    with pytest.raises(SourceError) as caught:
        open_source("http://someone:s3cret@127.0.0.1:9/owner/tool.git", tmp_path)
    assert "s3cret" not in str(caught.value)
    assert "127.0.0.1:9/owner/tool.git" in str(caught.value)
    assert not list(tmp_path.rglob(".partial*"))


def test_an_unreachable_remote_is_told_in_few_words(tmp_path):
    with pytest.raises(SourceError) as caught:
        open_source("http://127.0.0.1:9/owner/tool.git", tmp_path)
    assert caught.value.message == "http://127.0.0.1:9/owner/tool.git cannot be fetched (Connection refused)"


def test_what_was_fetched_before_serves_while_the_remote_is_away(tmp_path):
    home, cache = tmp_path / "remote" / "tool", tmp_path / "cache"
    url = home.as_uri()
    for number in range(3):
        last = commit_files(home, {"a.py": f"{number}".encode()})
        open_source(url, cache)
    # HEAD goes back to where it was: the last that was seen there counts, not the last that was fetched.
    first = sorted((cache / "git").glob("*/*"), key=lambda folder: folder.stat().st_mtime)[0].name
    (home / ".git" / "refs" / "heads" / "master").write_text(first + "\n")
    assert open_source(url, cache).pin == first != last
    home.rename(tmp_path / "away")
    listener = Lines()
    assert open_source(url, cache, listener).pin == first
    (line,) = listener.lines
    assert line.startswith(f"warning: {url} cannot be fetched (")
    assert line.endswith(f"; going on with commit {first[:12]}, fetched before")


def test_addresses():
    assert is_url("https://example.org/a/b.git")
    assert is_url("git@example.org:a/b.git")
    assert not is_url("C:\\code\\tool")
    assert not is_url("/code/a:b")
    assert name_of("https://u:p@example.org/group/owner/tool.git") == "owner/tool"
    assert name_of("git@example.org:owner/tool.git") == "owner/tool"
    assert name_of("file:///home/someone/tool.git") == "tool"
    assert without_credentials("see https://u:p@example.org/x") == "see https://example.org/x"


def test_folder_identity_follows_content(tmp_path):
    folder = write_files(tmp_path / "tool", {"a.py": b"a", "b/c.py": b"c", "picture.png": b"p"})
    first = open_source(str(folder), tmp_path / "cache").identity()
    assert first["kind"] == "folder"
    assert str(tmp_path) not in json.dumps(first)
    write_files(folder, {"picture.png": b"other", "__pycache__/a.pyc": b"x"})
    assert open_source(str(folder), tmp_path / "cache").identity() == first
    write_files(folder, {"a.py": b"b"})
    assert open_source(str(folder), tmp_path / "cache").identity() != first


def test_folder_remembers_hashes_but_not_of_fresh_files(tmp_path, monkeypatch):
    from train.data import folder_source

    folder = write_files(tmp_path / "tool", {"old.py": b"a", "fresh.py": b"b"})
    past = time.time() - 100
    os.utime(folder / "old.py", (past, past))
    first = open_source(str(folder), tmp_path / "cache").identity()
    read = []
    original = folder_source._read
    monkeypatch.setattr(folder_source, "_read", lambda path: read.append(path.name) or original(path))
    assert open_source(str(folder), tmp_path / "cache").identity() == first
    assert read == ["fresh.py"]
    for file in (tmp_path / "cache" / "hashes").iterdir():
        file.write_text("not JSON")
    assert open_source(str(folder), tmp_path / "cache").identity() == first


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_folder_never_follows_links(tmp_path):
    write_files(tmp_path / "outside", {"secret.py": b"s"})
    folder = write_files(tmp_path / "tool", {"a.py": b"a", "b/c.py": b"c"})
    (folder / "loop").symlink_to(folder)
    (folder / "b" / "up").symlink_to("..")
    (folder / "out").symlink_to(tmp_path / "outside")
    (folder / "s.py").symlink_to(tmp_path / "outside" / "secret.py")
    os.mkfifo(folder / "pipe.py")
    source = open_source(str(folder), tmp_path / "cache")
    assert paths(source) == ["a.py", "b/c.py"]
    assert source.skipped == {"symbolic link": 4, "unreadable": 1}


def test_folder_that_changes_while_read(tmp_path):
    folder = write_files(tmp_path / "tool", {"a.py": b"a", "b.py": module("b")})
    source = open_source(str(folder), tmp_path / "cache")
    write_files(folder, {"a.py": b"!"})
    with pytest.raises(StageError, match="changed while it was read"):
        source.read(source.entries[0])
    (folder / "b.py").unlink()
    with pytest.raises(StageError, match="Run again"):
        source.read(source.entries[1])


def test_http_url_is_fetched_without_history(tmp_path):
    from dulwich.repo import Repo
    from dulwich.server import DictBackend
    from dulwich.web import HTTPGitApplication, WSGIRequestHandlerLogger, WSGIServerLogger, make_server

    first = commit_files(tmp_path / "tool", {"a.py": b"one"})
    commit = commit_files(tmp_path / "tool", {"a.py": b"two", "src/b.py": module("b")})

    class Quiet(WSGIRequestHandlerLogger):
        def log_message(self, *args):
            pass

    served = Repo(str(tmp_path / "tool"))
    application = HTTPGitApplication(DictBackend({"/owner/tool.git": served}))
    server = make_server("127.0.0.1", 0, application, handler_class=Quiet, server_class=WSGIServerLogger)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        source = open_source(f"http://127.0.0.1:{server.server_port}/owner/tool.git", tmp_path / "cache")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        served.close()
    assert source.identity() == {"name": "owner/tool", "kind": "git", "commit": commit}
    assert contents(source) == {"a.py": b"two", "src/b.py": module("b")}
    (fetched,) = (tmp_path / "cache" / "git").glob("*/*")
    with Repo(str(fetched)) as repo:
        assert first.encode() not in repo.object_store
