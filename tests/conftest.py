"""What all tests share: a cache folder of their own, so that the user's is neither used nor filled."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from toolchain.contracts.cache_folder import VARIABLE


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_configure() -> None:
    # A shell without job control starts what is in its background deaf to Ctrl-C, and so would be all that tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
