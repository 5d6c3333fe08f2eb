"""Every error that Fimble raises on purpose for whoever runs it.

    FimbleError
    ├── UserError                  what the user gave cannot be used: exit code 2
    │   ├── SettingsError          an unknown key, a value out of range, settings that contradict each other
    │   ├── SourceError            a repository that cannot be read
    │   ├── ArtifactError          a folder that is not the whole artifact that was asked for
    │   │   └── TemplateFailure    a chat template that cannot be rendered
    │   ├── FimTokenError          a tokenizer without the FIM tokens of its family
    │   ├── UnsupportedArchitecture
    │   ├── UnknownTarget
    │   ├── TemplateRefusal        a chat template that does not take these messages
    │   ├── MissingExtra           a stage whose optional dependencies are not installed
    │   └── PortBusy
    ├── StageError                 the work itself failed: exit code 1
    └── Interrupted                Ctrl-C or SIGTERM: exit code 130

Library code raises; only the command line prints and chooses the exit code. What only a client of the server can mend
has its own errors there: `BadRequest` (a UserError) and `Refused` (an Exception), both in `serve/requests.py`.
"""

from __future__ import annotations


class FimbleError(Exception):
    """An error with what happened (`message`) and what to do about it (`next_step`), each one sentence."""

    exit_code = 1

    def __init__(self, message: str, next_step: str = "") -> None:
        self.message = message.rstrip(".")
        self.next_step = next_step
        super().__init__(f"{self.message}. {next_step}" if next_step else self.message)


def reason(error: BaseException) -> str:
    """The first line of what an error from elsewhere says, or its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class UserError(FimbleError):
    exit_code = 2


class SettingsError(UserError):
    pass


class SourceError(UserError):
    pass


class ArtifactError(UserError):
    pass


class TemplateFailure(ArtifactError):
    """`message` may quote what was to be rendered; `where`, the kind of the error and the line, does not."""

    def __init__(self, message: str, next_step: str, where: str) -> None:
        super().__init__(message, next_step)
        self.where = where


class FimTokenError(UserError):
    pass


class UnsupportedArchitecture(UserError):
    pass


class UnknownTarget(UserError):
    pass


class TemplateRefusal(UserError):
    pass


class MissingExtra(UserError):
    pass


class PortBusy(UserError):
    pass


class StageError(FimbleError):
    pass


class Interrupted(FimbleError):
    exit_code = 130

    def __init__(self) -> None:
        super().__init__("interrupted", "Run the same command again to continue.")
