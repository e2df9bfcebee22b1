"""The forms of one request on the wire, and whether each is as fast as the best.

`perf.bench.gate` asks that, and `perf.studies.request_forms` measures more of them.
"""

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from perf.bench.command import Say
from perf.load import generator, processes
from perf.load.generator import Load, Saw
from perf.load.observations import body

BOUND = 0.9
"""What share of the best form's rate the gate demands of each form of the same body."""
SEGMENT = 0.06
"""How much less of it for each further segment: sending and receiving one costs the generator and
the kernel that much on the same cores, whatever the gateway does with it."""
CONNECTIONS = 32

REQUEST = body()
BODY = json.dumps(REQUEST).encode()
JSON, MSGPACK = "application/json", "application/msgpack"
PROXIES_WRITE = (
    ("X-Forwarded-For", "203.0.113.7, 10.0.4.12"),
    ("Via", "1.1 edge-7 (squid/5.7)"),
    ("X-Real-IP", "203.0.113.7"),
)
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
    ("Cookie", "session=4f9c2b7e1d8a4c63b0e5f7a921c3d846; theme=dark; _ga=GA1.1.17384.1730000000"),
)

Item = TypeVar("Item")


@dataclass(frozen=True)
class Form:
    """One spelling of the request."""

    name: str
    headers: tuple[tuple[str, str], ...] = ()
    """All but host, content type and length."""
    segments: int = 1
    """TCP segments: one, or one of the head and the others of the body."""
    chunked: bool = False
    media_type: str = JSON
    proxy: str | None = None
    """What stands in front of the gateway: `nginx`, `haproxy`, or nothing."""

    @property
    def held(self) -> bool:
        """Whether the gate holds its rate.

        Not msgpack's, which is another body, nor a proxy's, which takes its own share of the cores.
        """
        return self.media_type == JSON and self.proxy is None

    def load(self, url: str, connections: int, seconds: float) -> Load:
        """Describe a closed loop on `/predict` for the generator."""
        content = BODY if self.media_type == JSON else msgspec.msgpack.encode(REQUEST)
        headers = (("Content-Type", self.media_type), *self.headers)
        how = (connections, seconds, None, self.segments, self.chunked)
        return Load.predict(url, headers, content, *how)

    def run(self, url: str, connections: int, seconds: float) -> Saw:
        """Send it in a closed loop by `perf.load.generator`. Raises LoadError."""
        return generator.run(self.load(url, connections, seconds))


FORMS = (
    Form("plain"),
    Form("`X-Forwarded-For`, `Via`, `X-Real-IP`", PROXIES_WRITE),
    Form("a browser's headers", A_BROWSER_SENDS),
    Form("head and body in two segments", segments=2),
    Form("head, and body in three segments", segments=4),
    Form("`Transfer-Encoding: chunked`", chunked=True),
    Form("msgpack", media_type=MSGPACK),
    Form("plain, behind nginx", proxy="nginx"),
    Form("plain, behind HAProxy", proxy="haproxy"),
)


def in_turns(items: Sequence[Item], rounds: int) -> Iterator[tuple[int, Item]]:
    """Yield the number of a round and an item: all items in each round, from another one on."""
    for turn in range(rounds):
        first = turn * len(items) // rounds
        for item in (*items[first:], *items[:first]):
            yield turn + 1, item


def check_forms(say: Say, rounds: int = 5, seconds: float = 1.0) -> list[str]:
    """Measure the forms of the same body; return a line for each that fails or is slow.

    Raises LoadError.
    """
    forms = [form for form in FORMS if form.held]
    rates: dict[str, list[float]] = {form.name: [] for form in forms}
    failed = {}
    with processes.gateway() as served:
        for form in forms:  # warm
            form.run(served.url, 1, 0.1)
        for turn, form in in_turns(forms, rounds):
            saw = form.run(served.url, CONNECTIONS, seconds)
            if saw.errors:
                failed[form.name] = f"{form.name}: requests failed: {saw.errors}"
            rates[form.name].append(saw.per_s)
            say(f"round {turn} of {rounds}: {form.name}: {saw.per_s:,.0f}/s")
    found = slow({name: each for name, each in rates.items() if name not in failed})
    to_reach = f"of the best form's requests/s, to reach {BOUND:g}, or less in several segments"
    return [*failed.values(), *(f"{name}: {part:.2f} {to_reach}" for name, part in found.items())]


def shares(rates: dict[str, list[float]]) -> dict[str, list[float]]:
    """Return rates over those of the best form of the same body, round by round."""
    held = [rates[form.name] for form in FORMS if form.held and form.name in rates]
    best = max(held, key=statistics.median, default=[])
    return {
        name: [one / other for one, other in zip(found, best, strict=True)]
        for name, found in rates.items()
    }


def slow(rates: dict[str, list[float]]) -> dict[str, float]:
    """Return the forms whose median share of the best form's rate is below the bound."""
    bounds = {form.name: BOUND - SEGMENT * (form.segments - 1) for form in FORMS}
    medians = {name: statistics.median(found) for name, found in shares(rates).items()}
    return {name: share for name, share in medians.items() if share < bounds[name]}
