"""The models that are served, by name. A name that is none of theirs means the first: editors send any."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from serve import protocols
from serve.completer import Completer
from serve.page.status import describe
from serve.protocols import Model
from serve.scheduler import Scheduler
from toolchain.contracts.errors import SettingsError

OLLAMA_TAG = ":latest"


@dataclass(frozen=True)
class Served:
    """One model, loaded: what is told of it, and the turns at it."""

    model: Model
    description: dict[str, Any]
    completer: Completer
    scheduler: Scheduler


class Models:
    """At least one model, each with its own name and its own queue."""

    def __init__(self, completers: Sequence[Completer], schedule: Callable[[Completer], Scheduler]) -> None:
        """Raises SettingsError when two have one name."""
        self._schedule = schedule
        self._schedulers: WeakSet[Scheduler] = WeakSet()
        self._served = [self._serve(completer) for completer in completers]
        self._refuse_one_name_for_two()

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served)

    @property
    def first(self) -> Served:
        return self._served[0]

    def named(self, name: object) -> Served:
        """The model of that name, which Ollama's clients write with a tag, or the first."""
        wanted = name.removesuffix(OLLAMA_TAG) if isinstance(name, str) else ""
        return next((served for served in self if served.model.name == wanted), self.first)

    def swap(self, number: int, completer: Completer) -> None:
        """Have `completer` answer from now on in the place of the model of that number.

        What the old one has been asked already, it still answers, and is then forgotten. Raises SettingsError for a
        name that is taken.
        """
        old, self._served[number] = self._served[number], self._serve(completer)
        try:
            self._refuse_one_name_for_two()
        except SettingsError:
            self._served[number] = old
            raise

    def schedulers(self) -> list[Scheduler]:
        """Those of the models, and of models that were swapped and have not answered everything yet."""
        return list(self._schedulers)

    def close(self) -> None:
        """Take no more requests, and refuse those that wait."""
        for scheduler in self.schedulers():
            scheduler.close()

    def cut(self) -> None:
        """End the requests that run with what they have."""
        for scheduler in self.schedulers():
            scheduler.cut()

    def _serve(self, completer: Completer) -> Served:
        scheduler = self._schedule(completer)
        self._schedulers.add(scheduler)
        bundle = completer.bundle
        return Served(protocols.describe(bundle), describe(bundle), completer, scheduler)

    def _refuse_one_name_for_two(self) -> None:
        names = [served.model.name for served in self]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise SettingsError(
                f"two bundles are called {twice.pop()}", "Serve one by another name: fimble serve BUNDLE NAME=BUNDLE."
            )
