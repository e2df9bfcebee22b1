"""No error shows a key or a password."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from carlarl_client import PolicyClient, PolicyError
from tests.client.kinds import KINDS, SEEN
from tests.client.scripted import nobody, scripted


@KINDS
@pytest.mark.parametrize("key", ["hush-hush\n", "hush\r\nhush: x", " hush", "hüsh", "hush\x00"])
def test_a_key_that_no_header_holds_is_refused(kind: Any, key: str) -> None:
    with pytest.raises(ValueError, match="api_key") as caught:
        kind(nobody(), api_key=key).health()
    assert "sh" not in str(caught.value).replace("shown", "")


@KINDS
@pytest.mark.parametrize(
    "url",
    [
        "http://me:hush@127.0.0.1:1",
        "http://me:hu/sh@127.0.0.1:1",
        "http://me:hush@127.0.0.1:port",
        "me:hush@127.0.0.1:1",
        "ftp://me:hush@127.0.0.1:1",
        "http://127.0.0.1:1/?token=hush",
        "http://127.0.0.1:1/#hush",
        "http://me:hush@\n",
    ],
)
def test_a_password_in_the_url_is_refused_and_not_shown(kind: Any, url: str) -> None:
    with pytest.raises(ValueError, match="url") as caught:
        kind(url).health()
    shown = "".join(traceback.format_exception_only(caught.value))
    assert "hu" not in shown


@KINDS
@pytest.mark.parametrize(
    "proxy", ["http://me:hu/sh@127.0.0.1:1", "http://me:hush@a:port", "me:hush"]
)
def test_a_wrong_proxy_is_not_shown(kind: Any, proxy: str) -> None:
    with pytest.raises(ValueError, match="proxy") as caught:
        kind("http://car.example", proxy=proxy).health()
    assert "hu" not in str(caught.value)


@KINDS
def test_a_proxy_s_password_is_not_shown_where_it_fails(kind: Any) -> None:
    proxy = nobody().replace("http://", "http://me:hush@")
    with pytest.raises(PolicyError) as caught:
        kind("http://car.example", proxy=proxy, retries=0).predict(SEEN)
    assert "hush" not in "".join(traceback.format_exception_only(caught.value))


def test_a_client_does_not_show_its_key() -> None:
    with scripted() as server, PolicyClient(server.url, api_key="hush", timeout=20.0) as client:
        assert client.predict(SEEN, deterministic=True).version == "v0.2.0"
        assert "hush" not in repr(client) + str(client) + client.url
