"""The entry point of `fimble`: whatever ends a command early becomes one line and an exit code.

With `--json` it becomes an object too. Exit codes: 0 success, 1 failure, 2 the user's input, 130 interrupted, by Ctrl-C
or SIGTERM. Libraries are imported inside of `main`, so that an interruption meanwhile is told like any other. What ends
one of several processes that train together is told by the one that started them.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import traceback
from contextlib import suppress
from typing import Any, TextIO

from serve import logs
from toolchain import streams
from toolchain.contracts.errors import FimbleError, Interrupted, StageError, UserError
from train.launch import worker

FULL = "Free some space there and run again."
TAKEN = "A part of that path is a file: choose another."
NOT_ALLOWED = "Check its permissions, or choose another."
NEXT_STEPS = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EEXIST: TAKEN,
    errno.ENOTDIR: TAKEN,
    errno.EACCES: NOT_ALLOWED,
    errno.EPERM: NOT_ALLOWED,
    errno.EROFS: NOT_ALLOWED,
    errno.EFBIG: "Raise the limit on file sizes (ulimit -f).",
}


def main() -> None:
    """Run the command that the user typed."""
    failure: FimbleError | None
    try:
        streams.do_without_missing()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if worker.is_launched():
            worker.begin()
        failure = _run()
    except KeyboardInterrupt:
        failure = Interrupted()
    except BrokenPipeError:  # `fimble plan | head -1` ends without a word; mostly typer sees to that
        _forget_output()
        sys.exit(1)
    except Exception as error:
        if worker.is_launched():
            _ignore_interruptions()
            worker.tell(error, traceback.format_exc())
            sys.exit(1)
        _tell_in_json(StageError(f"{type(error).__name__}: {error}", "Please report this, with its traceback."))
        raise
    _ignore_interruptions()
    if failure:
        if worker.is_launched():
            worker.tell(failure)
        else:
            _tell(failure)
        _forget_output()
        sys.exit(failure.exit_code)


def _ignore_interruptions() -> None:
    """Another one must cut short neither the line nor the end of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _tell(failure: FimbleError) -> None:
    if logs.is_json():
        logs.log_failure(failure)
    else:
        _say(f"error: {failure}", sys.stderr)
    _tell_in_json(failure)


def _tell_in_json(failure: FimbleError) -> None:
    """The last line of standard output for those who asked for an object."""
    if "--json" in sys.argv:
        told = {"error": failure.message, "next_step": failure.next_step, "exit_code": failure.exit_code}
        _say(json.dumps(told), sys.stdout)


def _say(line: str, stream: TextIO) -> None:
    """Write a line where it can be written: the exit code tells the failure anyway."""
    with suppress(OSError):
        print(line, file=stream, flush=True)


def _forget_output() -> None:
    """Let go of what could not be written, or Python would try once more at its end, and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run() -> FimbleError | None:
    _keep_out_the_working_folder()
    import warnings

    import typer

    from toolchain.commands import app

    # Libraries tell their own developers here what the user can do nothing about.
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="fimble", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except FimbleError as error:
        return error
    except typer.Abort:
        return Interrupted()
    except ModuleNotFoundError as error:
        from toolchain.contracts.extras import missing

        return missing((error.name or "a library").partition(".")[0])
    except BrokenPipeError:
        raise
    except OSError as error:
        return _refused_by_the_system(error)
    except Exception as error:
        if os.strerror(errno.ENOSPC) in str(error):  # safetensors and torch have errors of their own for it
            return StageError(f"cannot write: {os.strerror(errno.ENOSPC)}", FULL)
        if hasattr(error, "format_message"):
            return _not_understood(error)
        raise
    # Typer takes an interruption for itself, and gives a code in place of the command's result.
    return Interrupted() if code == Interrupted.exit_code else None


def _keep_out_the_working_folder() -> None:
    """The user's folder may hold a `tokenizers.py` or a `train.py`: it is no place to import from, nor for children."""
    sys.path[:] = [entry for entry in sys.path if entry not in ("", ".")]
    os.environ["PYTHONSAFEPATH"] = "1"


def _not_understood(error: Any) -> UserError:
    """An error of typer's own: the command line holds what no command takes."""
    message = " ".join(error.format_message().split()).rstrip(".?")
    path = error.ctx.command_path if getattr(error, "ctx", None) else "fimble"
    return UserError(f"{message[:1].lower()}{message[1:]}", f"See {path} --help.")


def _refused_by_the_system(error: OSError) -> StageError:
    """What the operating system did not let us do, and with which file."""
    what = "cannot write" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) else "cannot use"
    where = f" {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
    reason = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    return StageError(f"{what}{where}: {reason}", NEXT_STEPS.get(error.errno or 0, ""))


if __name__ == "__main__":
    main()
