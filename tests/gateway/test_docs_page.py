"""`/docs` and `/redoc` in a real browser, with nothing loaded from elsewhere; where `/` leads."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx
import pytest

from tests.browser import Browser
from tests.gateway.processes import check_envelope


@pytest.mark.parametrize(
    ("path", "operation"), [("/docs", ".opblock-summary-path"), ("/redoc", "[data-section-id]")]
)
def test_a_page_shows_the_operations(
    chromium: Browser, lone_gateway: str, path: str, operation: str
) -> None:
    chromium.open(lone_gateway + path, 1200)
    shown = chromium.wait(
        f"document.querySelectorAll({operation!r}).length > 5 && document.body.innerText"
    )
    assert "/predict" in shown.replace("\u200b", "")
    loaded = {
        one["params"]["response"]["url"]
        for one in chromium.events
        if one.get("method") == "Network.responseReceived"
    }
    hosts = {re.sub(r"^(http|https|ws)://([^/]+)/.*", r"\2", u) for u in loaded if u[:4] == "http"}
    assert hosts == {lone_gateway.removeprefix("http://")}
    chromium.open("about:blank", 800)


def test_swagger_s_button_asks_the_gateway(chromium: Browser, lone_gateway: str) -> None:
    chromium.open(lone_gateway + "/docs", 1200)
    live = "document.querySelector('[id*=livez]')"
    chromium.wait(f"{live} && ({live}.querySelector('.opblock-summary-control').click(), 1)")
    for button in ("try-out__btn", "execute"):
        found = f"{live}.querySelector('.{button}')"
        chromium.wait(f"{found} && ({found}.click(), 1)")
    chromium.wait(f"{live}.querySelector('.live-responses-table')?.innerText.includes('alive')")
    chromium.open("about:blank", 800)


def test_their_files_are_open_as_the_pages_are(run_gateway: Callable[..., str]) -> None:
    url = run_gateway("/livez", DOCS_ACCESS="closed")
    for path in ("/docs", "/redoc", "/docs/swagger-ui.css", "/docs/redoc.standalone.js"):
        check_envelope(httpx.get(url + path), 404, "HTTP_ERROR")
    assert httpx.get(url).headers["location"] == "/console"


def test_the_root(lone_gateway: str, run_gateway: Callable[..., str]) -> None:
    answer = httpx.get(lone_gateway)
    assert (answer.status_code, answer.headers["location"]) == (307, "/console")
    assert httpx.get(run_gateway("/livez", CONSOLE_ACCESS="closed")).headers["location"] == "/docs"
    closed = run_gateway("/livez", CONSOLE_ACCESS="closed", DOCS_ACCESS="closed")
    check_envelope(httpx.get(closed), 404, "HTTP_ERROR")
