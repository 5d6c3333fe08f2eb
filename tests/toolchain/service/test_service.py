"""Service files say what they should to the programs that read them, whatever the paths are like."""

from __future__ import annotations

import json
import plistlib
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolchain.contracts.errors import SettingsError
from toolchain.machine import Machine
from toolchain.service import launchd, systemd, task
from toolchain.service.service import Service, environment_file

MACHINE = Machine("linux", Path("/home/ada"), {})
ODD = 'it\'s "my" $HOME ${x} %h %% \\n; * [a] ü code'
SERVICE = Service(("/opt/fimble", "serve", "/data/my bundle", "--port", "9000"), Path("/data"))
TEXTS = st.text(st.sampled_from("ab /'\"\\%$*;[]{}~#`&|<>()=ü"), min_size=1, max_size=12)


def unit_words(text: str) -> list[str]:
    """The words of ExecStart, read as systemd.syntax(7) says: quotes, backslashes, and % doubled."""
    (line,) = re.findall(r"^ExecStart=:(.*)$", text, flags=re.MULTILINE)
    return [word.replace("%%", "%") for word in shlex.split(line)]


def test_a_program_in_a_folder_with_quotes_is_run_by_a_shell(tmp_path: Path) -> None:
    script = tmp_path / ODD / "fimble"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\nprintf \'%s\\n\' "$0" "$@"\n')
    script.chmod(0o755)
    words = unit_words(systemd.setup(replace(SERVICE, command=(str(script), "serve", ODD)), MACHINE).text)
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{script}\nserve\n{ODD}\n"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_a_unit_runs_the_words_that_it_was_given(words: list[str]) -> None:
    text = systemd.setup(replace(SERVICE, command=("/bin/x", *words)), MACHINE).text
    assert unit_words(text) == ["/bin/x", *words]
    assert not re.search(r"(?<!%)(%%)*%(?!%)", text)


def test_systemd_finds_nothing_wrong_with_odd_paths(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze")
    folder = tmp_path / ODD
    folder.mkdir()
    program = folder / "fimble"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    home = Machine("linux", folder, {})

    def verify(service: Service) -> tuple[int, str]:
        made = systemd.setup(service, home)
        unit = tmp_path / systemd.UNIT
        unit.write_bytes(made.content)
        line = [analyze, "verify", "--user", "--man=no", str(unit)]
        environment = {"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60, check=False)
        # Other units of the machine may have faults of their own.
        return done.returncode, "\n".join(line for line in done.stderr.splitlines() if systemd.UNIT in line)

    assert verify(Service((str(program), "serve", str(folder)), folder)) == (0, "")
    plain = tmp_path / "my %h $HOME code"
    shutil.copytree(folder, plain)
    assert verify(Service((str(plain / "fimble"), "serve", str(folder)), plain)) == (0, "")
    # It does look: a program that is not there is a fault.
    code, told = verify(Service((str(plain / "none"), "serve"), folder))
    assert code != 0
    assert "is not executable" in told


def test_a_unit_as_it_is_kept() -> None:
    made = systemd.setup(SERVICE, MACHINE)
    assert made.text == (
        "[Unit]\n"
        "Description=Fimble, code completions on this machine\n"
        "\n"
        "[Service]\n"
        'ExecStart=:"/opt/fimble" "serve" "/data/my bundle" "--port" "9000"\n'
        "WorkingDirectory=/data\n"
        "EnvironmentFile=-/home/ada/.config/fimble/fimble.env\n"
        "Restart=on-failure\n"
        "RestartSec=5\n"
        "RestartPreventExitStatus=2\n"
        "\n"
        "[Install]\n"
        "WantedBy=default.target\n"
    )
    assert made.file == Path("/home/ada/.config/systemd/user/fimble.service")


@pytest.mark.parametrize("name", ["line\nbreak", "bell\a", "no text \udcff"])
@pytest.mark.parametrize("module", [systemd, launchd, task])
def test_what_no_file_can_hold_is_refused(name: str, module: object) -> None:
    with pytest.raises(SettingsError, match="Rename"):
        Service(("/opt/fimble", f"/data/{name}"), Path("/data"))


def test_what_one_system_cannot_hold_is_refused() -> None:
    for folder in ("/data/x ", "/data/x\\"):
        with pytest.raises(SettingsError, match="its last character"):
            systemd.setup(replace(SERVICE, folder=Path(folder)), MACHINE)
    with pytest.raises(SettingsError, match="variables"):
        task.setup(replace(SERVICE, folder=Path("/%USERPROFILE%")), MACHINE)


KEYS = st.text(st.sampled_from("".join(map(chr, range(0x21, 0x7F)))), min_size=1, max_size=20)


def run_agent(folder: Path, key: str | None) -> dict[str, object]:
    """What a launch agent's program sees, run as launchd runs it."""
    program = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ.get('FIMBLE_API_KEY')]))"
    machine = Machine("darwin", folder, {})
    service = Service((sys.executable, "-c", program, ODD, "--port"), folder)
    made = launchd.setup(service, machine)
    told = plistlib.loads(made.content)
    assert told["WorkingDirectory"] == str(folder)
    assert made.key_file
    made.key_file.parent.mkdir(parents=True, exist_ok=True)
    made.key_file.unlink(missing_ok=True)
    if key is not None:
        made.key_file.write_bytes(environment_file({"FIMBLE_API_KEY": key}))
    line = told["ProgramArguments"]
    done = subprocess.run(line, env={}, cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    seen, found = json.loads(done.stdout)
    return {"arguments": seen, "key": found}


@pytest.mark.parametrize("key", [None, "s3cret", "a'b\"c\\d$e`f!g#h"])
def test_an_agent_runs_its_words_with_the_key_from_its_file(key: str | None, tmp_path: Path) -> None:
    folder = tmp_path / ODD
    folder.mkdir()
    assert run_agent(folder, key) == {"arguments": [ODD, "--port"], "key": key}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(KEYS)
def test_a_key_comes_out_of_its_file_as_it_went_in(key: str) -> None:
    shell = [*("/bin/sh", "-c"), 'set -a; eval "$(cat)"; printf %s "$FIMBLE_API_KEY"']
    done = subprocess.run(shell, input=environment_file({"FIMBLE_API_KEY": key}), capture_output=True, check=True)
    assert done.stdout.decode() == key
    # systemd: within double quotes a backslash escapes these four signs, and nothing else.
    (value,) = re.fullmatch(
        rb'FIMBLE_API_KEY="((?:[^"\\]|\\["\\`$])*)"\n', environment_file({"FIMBLE_API_KEY": key})
    ).groups()
    assert re.sub(rb'\\(["\\`$])', rb"\1", value).decode() == key


def test_an_agent_is_what_apples_tools_take(tmp_path: Path) -> None:
    made = launchd.setup(
        replace(SERVICE, command=("/opt/fimble", "serve", ODD)), Machine("darwin", Path("/Users/ada"), {})
    )
    told = plistlib.loads(made.content)
    assert told["ProgramArguments"][-3:] == ["/opt/fimble", "serve", ODD]
    assert (told["Label"], told["RunAtLoad"], told["KeepAlive"]) == (made.file.stem, True, {"SuccessfulExit": False})
    assert made.file == Path("/Users/ada/Library/LaunchAgents/fimble.serve.plist")
    lint = shutil.which("xmllint")
    if lint:
        subprocess.run([lint, "--noout", "--nonet", "-"], input=made.content, check=True)


# Elements of the schema, and the order or set in which their parents have them.
SCHEMA = {
    "Task": ["RegistrationInfo", "Triggers", "Principals", "Settings", "Actions"],
    "RegistrationInfo": ["Description"],
    "Triggers": ["LogonTrigger"],
    "LogonTrigger": ["Enabled", "UserId"],
    "Principals": ["Principal"],
    "Principal": ["UserId", "LogonType", "RunLevel"],
    "Settings": [
        "MultipleInstancesPolicy",
        "DisallowStartIfOnBatteries",
        "StopIfGoingOnBatteries",
        "ExecutionTimeLimit",
        "RestartOnFailure",
    ],
    "RestartOnFailure": ["Interval", "Count"],
    "Actions": ["Exec"],
    "Exec": ["Command", "Arguments", "WorkingDirectory"],
}


def test_a_task_is_what_windows_reads() -> None:
    windows = Machine("win32", Path("/Users/ada"), {"USERNAME": "ada", "USERDOMAIN": "HOME", "LOCALAPPDATA": "/local"})
    command = (r"C:\Program Files\fimble\fimble.exe", "serve", 'C:\\my "code" & <x>\\', "--port", "9000")
    made = task.setup(Service(command, Path("/data")), windows)
    assert made.content[:2] == b"\xff\xfe"
    root = ElementTree.fromstring(made.content)
    space = f"{{{task.SCHEMA}}}"
    assert root.tag == f"{space}Task"
    for element in root.iter():
        name = element.tag.removeprefix(space)
        assert [child.tag.removeprefix(space) for child in element] == SCHEMA.get(name, []), name
    found = {element.tag.removeprefix(space): element.text for element in root.iter()}
    assert found["Command"] == command[0]
    assert found["Arguments"] == 'serve "C:\\my \\"code\\" & <x>\\\\" --port 9000'
    assert found["UserId"] == "HOME\\ada"
    # The action runs as the principal of that name.
    assert root[4].get("Context") == root[2][0].get("id") == "Author"
    assert made.file == Path("/local/fimble/fimble-task.xml")
