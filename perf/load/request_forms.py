"""The forms of one request on the wire: same observation, same answer."""

from __future__ import annotations

import json
from dataclasses import dataclass

import msgspec

from perf.load.generator import Load
from perf.load.observations import body

REQUEST = body()
BODY = json.dumps(REQUEST).encode()
JSON, MSGPACK = "application/json", "application/msgpack"

PROXIES_WRITE = (
    ("X-Forwarded-For", "203.0.113.7, 10.0.4.12"),
    ("Via", "1.1 edge-7 (squid/5.7)"),
    ("X-Real-IP", "203.0.113.7"),
)
COOKIE = "session=4f9c2b7e1d8a4c63b0e5f7a921c3d846"
A_BROWSER_SENDS = (
    ("Connection", "keep-alive"),
    ("sec-ch-ua", '"Chromium";v="130", "Google Chrome";v="130", "Not?A_Brand";v="99"'),
    ("sec-ch-ua-mobile", "?0"),
    ("sec-ch-ua-platform", '"Linux"'),
    (
        "User-Agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
        "Chrome/130.0.0.0 Safari/537.36",
    ),
    ("Accept", "*/*"),
    ("Origin", "http://fleet.example.com"),
    ("Sec-Fetch-Site", "same-site"),
    ("Sec-Fetch-Mode", "cors"),
    ("Sec-Fetch-Dest", "empty"),
    ("Referer", "http://fleet.example.com/vehicles/17?view=map"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Accept-Language", "de-DE,de;q=0.9,en-US;q=0.8,en;q=0.7"),
    ("Cookie", f"{COOKIE}; theme=dark; _ga=GA1.1.17384.1730000000"),
)


@dataclass(frozen=True)
class Form:
    """One spelling of the request."""

    name: str
    more_headers: tuple[tuple[str, str], ...] = ()
    segments: int = 1
    """TCP segments: one, or one of the head and the others of the body."""
    chunked: bool = False
    media_type: str = JSON
    proxy: str | None = None
    """What stands in front of the gateway: `nginx`, `haproxy`, or nothing."""

    @property
    def of_wrk(self) -> bool:
        """Whether wrk can spell it."""
        return self.segments == 1 and not self.chunked

    @property
    def held(self) -> bool:
        """Whether the gate holds its rate.

        Not msgpack's, which is another body, nor a proxy's, which takes its own share of the cores.
        """
        return self.media_type == JSON and self.proxy is None

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """All but host and length."""
        return (("Content-Type", self.media_type), *self.more_headers)

    @property
    def content(self) -> bytes:
        """The request's body."""
        return BODY if self.media_type == JSON else msgspec.msgpack.encode(REQUEST)

    def load(self, url: str, connections: int, seconds: float) -> Load:
        """Describe a closed loop on `/predict` for the generator."""
        how = (connections, seconds, None, self.segments, self.chunked)
        return Load.predict(url, self.headers, self.content, *how)


FORMS = (
    Form("plain, as wrk sends it"),
    Form("`X-Forwarded-For`, `Via`, `X-Real-IP`", PROXIES_WRITE),
    Form("a browser's headers", A_BROWSER_SENDS),
    Form("head and body in two segments", segments=2),
    Form("head, and body in three segments", segments=4),
    Form("`Transfer-Encoding: chunked`", chunked=True),
    Form("msgpack", media_type=MSGPACK),
    Form("plain, behind nginx", proxy="nginx"),
    Form("plain, behind HAProxy", proxy="haproxy"),
)
