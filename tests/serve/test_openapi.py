"""The description of the server's paths is true: schemathesis asks what it says, and holds the replies against it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from serve.bundle import Bundle
from serve.http.app import Server
from serve.http.openapi import OPERATIONS, describe
from tests.serve.conftest import completer_for, saying, serving

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")

checks = pytest.importorskip("schemathesis.specs.openapi.checks")

CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
WITH_BODY = [route for route, operation in OPERATIONS.items() if operation.body is not None]
SECONDS = 20
"""No request of these takes longer."""


def test_it_has_the_servers_paths(bundle: Bundle) -> None:
    # A route needs no model, and all of ours have methods.
    routes = Server.__new__(Server).app().routes
    served = {f"{min(route.methods - {'HEAD'} or route.methods)} {route.path.replace(':path', '')}" for route in routes}
    assert set(OPERATIONS) == served


@pytest.fixture(scope="module")
def description(chat_bundle: Bundle) -> Iterator[Any]:
    """What schemathesis makes of it, from a server whose model chats."""
    with serving(completer_for(chat_bundle, saying(chat_bundle, "ok"))[0]) as client:
        assert client.get("/openapi.json").json() == describe()
        yield schemathesis.openapi.from_url(str(client.base_url.join("/openapi.json")))


def ask(description: Any, route: str, examples: int, wrong: bool = False) -> None:
    """Ask what the description says may be asked, or with `wrong` what it rules out, as often as `examples`.

    Every reply is as it says, and none is a 5xx.
    """
    method, path = route.split()
    mode = schemathesis.GenerationMode.NEGATIVE if wrong else schemathesis.GenerationMode.POSITIVE

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=description[path][method].as_strategy(generation_mode=mode))
    def holds(case: Any) -> None:
        case.call_and_validate(timeout=SECONDS, checks=CHECKS)

    holds()


@pytest.mark.parametrize("route", OPERATIONS)
def test_replies_are_as_described(description: Any, route: str) -> None:
    ask(description, route, 12 if route in WITH_BODY else 2)


@pytest.mark.parametrize("route", WITH_BODY)
def test_what_is_not_as_described_does_no_harm(description: Any, route: str) -> None:
    ask(description, route, 8, wrong=True)


@pytest.mark.slow
@pytest.mark.parametrize("route", OPERATIONS)
def test_replies_are_as_described_however_often_it_is_asked(description: Any, route: str) -> None:
    ask(description, route, 500 if route in WITH_BODY else 10)


@pytest.mark.slow
@pytest.mark.parametrize("route", WITH_BODY)
def test_what_is_not_as_described_does_no_harm_however_often_it_is_asked(description: Any, route: str) -> None:
    ask(description, route, 500, wrong=True)
