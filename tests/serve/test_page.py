"""The status page, as a browser gets it and, where Chromium is installed, as it runs there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from serve.bundle import Bundle
from serve.page.files import TYPES
from serve.settings import ServeSettings
from tests.serve.conftest import completer_for, saying, serving
from tests.serve.test_models import called
from toolchain.contracts.editors.catalogue import EDITORS
from toolchain.contracts.editors.served import Served

HTML = {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}


@pytest.fixture
def client(bundle: Bundle) -> Iterator[httpx.Client]:
    with serving(completer_for(bundle, saying(bundle, "a + b"))[0]) as client:
        yield client


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        sandbox = {"chromium_sandbox": os.geteuid() != 0}  # Chromium does not start in one as root
        browser = started.chromium.launch(executable_path=chromium, **sandbox)
        yield browser
        browser.close()


def test_browsers_get_the_page_and_clients_the_protocol(client: httpx.Client) -> None:
    page = client.get("/", headers=HTML)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert client.get("/").status_code == 405
    assert client.post("/", json={"inputs": "x"}, headers=HTML).json()[0]["generated_text"] == "a + b"
    assert client.get("/", headers=HTML | {"Host": "evil.example"}).status_code == 403


def test_only_the_pages_own_files_are_given(client: httpx.Client) -> None:
    for name, kind in TYPES.items():
        reply = client.get(f"/page/{name}")
        assert reply.headers["content-type"].startswith(kind)
        assert "://" not in reply.text.replace("http://www.w3.org/2000/svg", "")
    for name in ("files.py", "..%2ffiles.py", "%2e%2e/files.py", ""):
        assert client.get(f"/page/{name}").status_code == 404


def test_the_settings_are_those_of_the_command_line(client: httpx.Client, bundle: Bundle) -> None:
    url = str(client.base_url).rstrip("/")
    served = Served(url, bundle.params / "tokenizer.json", bundle.spec, bundle.context_size, bundle.name)
    shown = client.get("/status").json()["editors"]
    assert [(one["editor"], one["text"]) for one in shown] == [
        (editor.title, editor.text(served)) for editor in EDITORS.values()
    ]


def test_the_playground_completes_and_nothing_leaves_the_machine(client: httpx.Client, browser: Any) -> None:
    page = browser.new_page()
    hosts, troubles = set(), []
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    page.on("console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.goto(str(client.base_url))
    page.get_by_label("Before the cursor").fill("return ")
    page.get_by_label("Before the cursor").press("Control+Enter")
    page.locator("#timing", has_text="all after").wait_for(timeout=10_000)
    assert page.locator("#output mark").inner_text() == "a + b"
    page.locator("figcaption", has_text="First token: median").wait_for(timeout=10_000)
    assert "256 tokens" in page.locator("#models").inner_text()
    assert hosts == {"127.0.0.1"}
    assert troubles == []
    shots = os.environ.get("FIMBLE_SCREENSHOTS")
    for name, scheme, width in (("light", "light", 1100), ("dark", "dark", 1100), ("narrow", "light", 360)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if shots:
            page.screenshot(path=f"{shots}/{name}.png", full_page=True)


def test_each_of_several_models_is_told_and_can_be_tried(bundle: Bundle, browser: Any) -> None:
    one, two = (called(name, bundle) for name in ("one", "two"))
    with serving(one, others=[two]) as client:
        page = browser.new_page()
        page.goto(str(client.base_url))
        page.locator("#name", has_text="one, two").wait_for(timeout=10_000)
        assert page.locator("#models dl").count() == 2
        page.get_by_label("Model", exact=True).select_option("two")
        client.post("/v1/completions", json={"prompt": "="})
        page.locator("figcaption", has_text="First token: median").wait_for(timeout=10_000)  # polled anew
        page.get_by_role("button", name="Complete").click()
        page.locator("#timing", has_text="all after").wait_for(timeout=10_000)
        assert page.locator("#output mark").inner_text() == "two"


def test_a_key_is_asked_for_and_kept_in_memory_alone(bundle: Bundle, browser: Any) -> None:
    with serving(completer_for(bundle, saying(bundle, "a"))[0], ServeSettings(api_key="s3cret")) as client:
        page = browser.new_page()
        page.goto(str(client.base_url))
        page.get_by_label("API key").fill("s3cret")
        page.get_by_role("button", name="Use the key").click()
        page.locator("#state", has_text="0 running").wait_for(timeout=10_000)
        assert page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
        page.reload()
        page.locator("#state", has_text="key is needed").wait_for(timeout=10_000)
