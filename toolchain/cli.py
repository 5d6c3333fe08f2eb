"""The entry point of `fimble`: whatever ends a command early becomes one line and an exit code.

Exit codes: 0 success, 1 failure, 2 the user's input, 130 interrupted. Libraries are imported inside of `main`, so that
an interruption meanwhile is told like any other.
"""

from __future__ import annotations

import os
import signal
import sys

from toolchain.contracts.errors import FimbleError, Interrupted, MissingExtra


def main() -> None:
    """Run the command that the user typed."""
    try:
        failure = _run()
    except KeyboardInterrupt:
        failure = Interrupted()
    # Another Ctrl-C must cut short neither the line nor the end of the process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(failure.exit_code)


def _run() -> FimbleError | None:
    _keep_out_the_working_folder()
    import warnings

    import typer

    from toolchain.commands import app

    # Libraries tell their own developers here what the user can do nothing about.
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        code = app(standalone_mode=False)
    except FimbleError as error:
        return error
    except typer.Abort:
        return Interrupted()
    except ModuleNotFoundError as error:
        return _missing(error)
    except Exception as error:
        # Typer's own usage errors carry their code and know how to show themselves.
        if not hasattr(error, "exit_code") or not hasattr(error, "show"):
            raise
        error.show()
        sys.exit(error.exit_code)
    # Typer takes an interruption for itself, and gives a code in place of the command's result.
    return Interrupted() if code == Interrupted.exit_code else None


def _keep_out_the_working_folder() -> None:
    """The user's folder may hold a `tokenizers.py` or a `train.py`: it is no place to import from, nor for children."""
    sys.path[:] = [entry for entry in sys.path if entry not in ("", ".")]
    os.environ["PYTHONSAFEPATH"] = "1"


def _missing(error: ModuleNotFoundError) -> MissingExtra:
    name = (error.name or "a library").partition(".")[0]
    return MissingExtra(f"the library {name} is not installed", "Run: pip install 'fimble[all]'")


if __name__ == "__main__":
    main()
