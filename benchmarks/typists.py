"""Simulated users of editors, who type real code and wait now and then for what the server has to say."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import httpx

KEYSTROKE_SECONDS = (0.15, 0.3)
BURST_KEYSTROKES = (4, 16)
PATIENCE_SECONDS = 2.0
LEAST_THOUGHT_SECONDS = 0.3
WINDOW = 4000
MOST_TOKENS = 24

Kind = Literal["llm-vscode 0.0.38", "streaming", "leaving"]
KINDS: tuple[Kind, ...] = ("llm-vscode 0.0.38", "streaming", "leaving")
Outcome = Literal["answered", "refused", "left", "open", "stopped", "error"]


@dataclass
class Asked:
    """One request. `newest` is the last before its user stopped to look, and `in_time` what came before that ended."""

    at: float
    newest: bool = False
    in_time: bool = False
    seconds: float = 0.0
    text: str = ""
    outcome: Outcome = "open"
    told: str = ""


class Typist:
    """One user with one editor and one file. What it asked is in `asked`.

    The first kind never takes back a request; the others drop the connection at the next keystroke, one of them while
    it reads a stream.
    """

    def __init__(self, number: int, kind: Kind, code: str, url: str) -> None:
        self.kind, self.asked = kind, list[Asked]()
        self.most_open = 0
        self._agent = f"{kind} ({number})"
        # Its own, as each editor has: one pool of connections for all would make them wait for each other.
        self._client = httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, verify=False)
        self._random = random.Random(number)
        cut = self._random.randrange(len(code) // 4, len(code) // 2)
        self._before, self._to_type, self._after = code[:cut], code[cut : cut + 2000], code[cut + 2000 :]
        self._open: set[asyncio.Task[None]] = set()

    async def type(self, over: Callable[[], bool]) -> None:
        """Type until it is `over`, then wait for the answers that are still to come."""
        keys = self._keys()
        while not over():
            for _ in range(self._random.randint(*BURST_KEYSTROKES)):
                if over():
                    break
                self._before += next(keys)
                latest = self._ask()
                await asyncio.sleep(self._random.uniform(*KEYSTROKE_SECONDS))
            else:
                await self._look(latest)
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._client.aclose()

    async def _look(self, latest: asyncio.Task[None]) -> None:
        begun, asked = time.monotonic(), self.asked[-1]
        await asyncio.wait([latest], timeout=PATIENCE_SECONDS)
        asked.newest, asked.in_time = True, latest.done()
        await asyncio.sleep(max(0.0, LEAST_THOUGHT_SECONDS - (time.monotonic() - begun)))

    def _keys(self) -> Iterator[str]:
        """What goes in at each keystroke: two characters, since editors write the closing ones themselves."""
        return itertools.cycle(self._to_type[n : n + 2] for n in range(0, len(self._to_type), 2))

    def _ask(self) -> asyncio.Task[None]:
        if self.kind != "llm-vscode 0.0.38":
            for task in self._open:
                task.cancel()
        asked = Asked(time.monotonic())
        self.asked.append(asked)
        task = asyncio.create_task(self._run(asked))
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        self.most_open = max(self.most_open, len(self._open))
        return task

    async def _run(self, asked: Asked) -> None:
        path, body = self._request()
        try:
            async with self._client.stream(
                "POST", path, content=json.dumps(body), headers={"User-Agent": self._agent}
            ) as reply:
                told = (await reply.aread()).decode()
                self._read(asked, reply.status_code, told)
        except asyncio.CancelledError:
            asked.outcome = "left"
            raise
        except httpx.ConnectError:
            asked.outcome, asked.told = "stopped", "nobody listens"
        except Exception as error:  # each is counted, and the run fails for any
            asked.outcome, asked.told = "error", repr(error)
        finally:
            asked.seconds = time.monotonic() - asked.at

    def _request(self) -> tuple[str, dict[str, Any]]:
        before, after = self._before[-WINDOW:], self._after[:WINDOW]
        if self.kind == "streaming":
            return "/v1/completions", {"prompt": before, "suffix": after, "max_tokens": MOST_TOKENS, "stream": True}
        parameters = {"max_new_tokens": MOST_TOKENS, "temperature": 0.2, "do_sample": True, "top_p": 0.95}
        prompt = f"<fim_prefix>{before}<fim_suffix>{after}<fim_middle>"
        return "/", {"inputs": prompt, "parameters": parameters | {"stop": ["<|endoftext|>"]}}

    def _read(self, asked: Asked, status: int, told: str) -> None:
        """What came of it; anything but a whole answer or an honest refusal is an error."""
        try:
            if status in (429, 503):
                asked.outcome, asked.told = "refused", f"{status} {json.loads(told)['error_type']}"
            elif status != 200:
                asked.outcome, asked.told = "error", f"status {status}: {told[:200]}"
            elif self.kind == "streaming":
                *events, done = [line.removeprefix("data: ") for line in told.split("\n\n") if line]
                if done != "[DONE]":
                    refused = json.loads(done)["error_type"] == "overloaded"
                    asked.outcome, asked.told = "refused" if refused else "error", done[:200]
                    return
                asked.text = "".join(json.loads(event)["choices"][0]["text"] for event in events)
                asked.outcome = "answered"
            else:
                asked.text, asked.outcome = json.loads(told)[0]["generated_text"], "answered"
        except (ValueError, LookupError, TypeError) as error:
            asked.outcome, asked.told = "error", f"{error!r} in {told[:200]!r}"
