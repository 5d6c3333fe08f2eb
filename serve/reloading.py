"""Serving what was made anew: a workspace's bundle after `fimble up`, or one that was compiled again in its place.

The new bundle is loaded beside the old one, which goes on answering; then new requests go to the new one, and the old
one is let go when it has answered its own. What cannot be loaded changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from serve.completer import Completer
from serve.models import Models
from serve.sources import Source, Stamp
from toolchain.contracts.errors import FimbleError

LOOK_SECONDS = 2.0
log = logging.getLogger("fimble.reload")


class Reloader:
    """Looks for other bundles where the served ones came from."""

    def __init__(
        self,
        sources: Sequence[Source],
        models: Models,
        load: Callable[[Source], Completer],
        stamps: Sequence[Stamp | None],
    ) -> None:
        """`stamps` are those of the bundles that are served."""
        self._sources, self._models, self._load = sources, models, load
        self._stamps = list(stamps)
        self._asked = asyncio.Event()
        self._gone: set[int] = set()

    def ask(self) -> None:
        """Have all bundles loaded again, whether they changed or not."""
        self._stamps = [None] * len(self._stamps)
        self._asked.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            for number, source in enumerate(self._sources):
                stamp = await asyncio.to_thread(source.stamp)
                self._tell_gone(number, stamp)
                if stamp is not None and stamp != self._stamps[number]:
                    self._stamps[number] = stamp
                    await self._reload(number, source)
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._asked.wait()
            except TimeoutError:
                continue
            self._asked.clear()

    def _tell_gone(self, number: int, stamp: Stamp | None) -> None:
        """Once each time that there is no bundle any more where one came from."""
        if stamp is not None:
            self._gone.discard(number)
        elif number not in self._gone:
            self._gone.add(number)
            name = list(self._models)[number].model.name
            log.warning("there is no bundle any more where %s came from; the model that was loaded goes on", name)

    async def _reload(self, number: int, source: Source) -> None:
        try:
            completer = await asyncio.to_thread(self._load, source)
            self._models.swap(number, completer)
        except FimbleError as error:
            log.warning("the model that was loaded goes on, as the new one cannot be: %s", error)
        except Exception:  # looking goes on whatever a load meets, and the log has all of it
            log.exception("a bundle could not be loaded; the model that was loaded goes on")
        else:
            log.info("serving %s from %s", completer.bundle.name, completer.bundle.folder)
