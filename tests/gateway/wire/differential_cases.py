"""Random requests for the differential run: each kind of body, head, framing and segment."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec

from tests.fuzzing import gateway_inputs
from tests.fuzzing.exchange import mutated, split
from tests.gateway.processes import OBSERVATION
from tests.gateway.wire.test_order import GARBAGE
from tests.gateway.wire.test_spellings import BROWSER, PROXY
from tests.gateway.wire.test_upgrades import WISHES
from tests.gateway.wire.wire import GOOD, MSGPACK, chunks, head, request


@dataclass(frozen=True)
class Case:
    """What is sent on one connection: its kind, its segments, and the answers they should have."""

    kind: str
    segments: tuple[bytes, ...]
    answers: int = 1
    to_head: bool = False

    @property
    def data(self) -> bytes:
        return b"".join(self.segments)


HEADERS: tuple[tuple[str, ...], ...] = (
    (),
    (),
    PROXY,
    BROWSER,
    (*PROXY, *BROWSER),
    ("Origin: https://car.example",),
    ("Cookie: a=b", "Origin: null"),
    ("X-Request-ID: a-sane.one_1",),
    ("X-Request-ID: not sane",),
    ("X-Deadline-Ms: 900",),
    ("Content-Type: application/json; charset=utf-8",),
    ("Content-Type: application/vnd.car+json",),
    ("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",),
    ("Connection: keep-alive",),
    ("Accept: */*", "Accept-Encoding: gzip", "User-Agent: x"),
)
TARGETS = (
    *("/predict", "/predict?a=b", "/%70redict", "http://host/predict", "/predict/"),
    *("//predict", "/predict#x", "/PREDICT", "/predict%20", "/./predict"),
)
ROUTES = (
    *("/livez", "/readyz", "/healthz", "/metadata", "/versions", "/metrics", "/openapi.json"),
    *("/asyncapi.json", "/docs", "/console", "/stream", "/nothing", "/", "/warmup", "/livez?a=b"),
)
SEEDS = (0, 1, 2**31, 2**53, 2**63 - 1, None)
TRAILERS = (b"X-Trailer: a", b"Content-Type: text/plain", b"X-Request-ID: b", b"X-Deadline-Ms: x")


def right(random: Random) -> bytes:
    """Make a body that is right."""
    count = random.choice((1, 1, 1, 2, 7, 300))
    seen = [
        {
            "speed": round(random.uniform(0, 200), 3),
            "steering": round(random.uniform(-1, 1), 3),
            "sensors": [round(random.uniform(-2, 2), 3) for _ in range(5)],
        }
        for _ in range(count)
    ]
    content: dict[str, Any] = {"observations": seen}
    if random.random() < 0.8:
        content["deterministic"] = random.choice((True, True, False))
    if random.random() < 0.3:
        content["seed"] = random.choice(SEEDS)
    if random.random() < 0.3:
        content["version"] = random.choice(("v0.1.0", "v0.2.0", None))
    names = list(content)
    random.shuffle(names)
    indent, separators = random.choice(((None, (",", ":")), (None, None), (1, None)))
    return json.dumps({n: content[n] for n in names}, indent=indent, separators=separators).encode()


WRONG: tuple[dict[str, Any], ...] = (
    {"speed": -1},
    {"speed": 200.1},
    {"speed": "25"},
    {"speed": True},
    {"speed": None},
    {"steering": 2},
    {"sensors": []},
    {"sensors": [0.0] * 4},
    {"sensors": [0.0] * 6},
    {"sensors": [1000.5] * 5},
    {"sensors": ["a"] * 5},
    {"sensors": {}},
    {"gear": 1},
)


def wrong(random: Random) -> bytes:
    """Make a body with a mistake that callers make."""
    count = random.choice((1, 1, 3))
    seen: list[Any] = [dict(OBSERVATION) for _ in range(count)]
    place = random.randrange(count)
    seen[place] = {**seen[place], **random.choice(WRONG)}
    if random.random() < 0.3:
        del seen[place][random.choice(list(seen[place]))]
    content: dict[str, Any] = {"observations": seen, "deterministic": True}
    if random.random() < 0.2:
        content["observations"] = random.choice(([], {}, None, "a", [1], [None], [[]]))
    if random.random() < 0.2:
        name = random.choice(("seed", "version", "deterministic", "typo"))
        content[name] = random.choice((-1, 1.5, "1", "v9.9.9", "0.1.0", 2**63, [], "true"))
    return json.dumps(content).encode()


def framed(
    random: Random, body: bytes, *lines: str, method: str = "POST", target: str = "/predict"
) -> bytes:
    """Tell a body's end by its length or by chunks."""
    if random.random() < 0.7:
        return request(body, *lines, method=method, target=target)
    top = head(*lines, "Transfer-Encoding: chunked", method=method, target=target)
    extension = random.choice((b"", b"", b";a=b"))
    trailers = (b"X-Trailer: a",) if random.random() < 0.1 else ()
    return top + chunks(body, random.choice((1 << 20, 100, 17)), extension, *trailers)


def cut(random: Random, data: bytes) -> tuple[bytes, ...]:
    """Send in one segment, or head and body apart, or cut anywhere."""
    choice = random.randrange(3)
    if choice == 0:
        return (data,)
    if choice == 1:
        at = data.find(b"\r\n\r\n") + 4
        return tuple(filter(None, (data[:at], data[at:])))
    return tuple(filter(None, split(random, data)))


def right_body(random: Random) -> Case:
    data = framed(random, right(random), *random.choice(HEADERS))
    return Case("right body", cut(random, data))


def wrong_body(random: Random) -> Case:
    data = framed(random, wrong(random), *random.choice(HEADERS))
    return Case("wrong body", cut(random, data))


def damaged_body(random: Random) -> Case:
    made = mutated(random, right(random)) if random.random() < 0.5 else gateway_inputs.body(random)
    return Case("damaged body", cut(random, framed(random, made, *random.choice(HEADERS))))


def other_target(random: Random) -> Case:
    data = framed(random, right(random), *random.choice(HEADERS), target=random.choice(TARGETS))
    return Case("spelling of the target", cut(random, data))


def other_route(random: Random) -> Case:
    method = random.choice(("GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE"))
    body = random.choice((None, None, b"", b"{}", GOOD))
    lines, target = random.choice(HEADERS), random.choice((*ROUTES, "/predict"))
    data = request(body, *lines, method=method, target=target)
    kind = f"{method} {target.partition('?')[0]}" + ("" if body is None else " with a body")
    return Case(kind, cut(random, data), to_head=method == "HEAD")


def odd_headers(random: Random) -> Case:
    lines = random.sample(gateway_inputs.HEADERS, random.choice((1, 1, 2)))
    usual = random.random() < 0.7
    target = "/predict" if usual else random.choice(gateway_inputs.TARGETS)
    method = "POST" if usual else random.choice(gateway_inputs.METHODS)
    data = framed(random, GOOD, *lines, method=method, target=target)
    name = "odd headers" if usual else "odd head"
    return Case(name, cut(random, data), to_head=method == "HEAD")


def options(random: Random) -> Case:
    lines = [
        f"Origin: {random.choice(('https://car.example', 'null'))}",
        f"Access-Control-Request-Method: {random.choice(('POST', 'GET', 'DELETE'))}",
        "Access-Control-Request-Headers: content-type",
    ]
    some = random.sample(lines, random.randint(0, 3))
    target = random.choice(("/predict", "/livez", "/nothing"))
    return Case("OPTIONS", (request(None, *some, method="OPTIONS", target=target),))


def old_version(random: Random) -> Case:
    lines = random.choice(((), ("Connection: keep-alive",), ("Connection: close",)))
    return Case("HTTP/1.0", (request(right(random), *lines, version="HTTP/1.0"),))


def upgrade(random: Random) -> Case:
    name = random.choice(list(WISHES))
    return Case(f"upgrade to {name}", cut(random, framed(random, right(random), *WISHES[name])))


def expectation(random: Random) -> Case:
    line = random.choice(("Expect: 100-continue", "Expect: foo"))
    return Case(line, cut(random, framed(random, right(random), line)))


def doubtful_length(random: Random) -> Case:
    value = random.choice(gateway_inputs.LENGTHS).decode("latin-1")
    lines = [f"Content-Length: {value}"]
    if random.random() < 0.5:
        lines.append(f"Content-Length: {len(GOOD)}")
    return Case("doubtful length", (head(*lines) + GOOD,))


def trailers(random: Random) -> Case:
    some = random.sample(TRAILERS, random.randint(1, 3))
    data = head("Transfer-Encoding: chunked") + chunks(right(random), 60, b"", *some)
    return Case("trailers", cut(random, data))


def bad_chunks(random: Random) -> Case:
    return Case("bad chunks", gateway_inputs.bad_chunks(random).pieces)


def broken(random: Random) -> Case:
    return Case("broken bytes", (mutated(random, request(right(random))),))


def garbage(random: Random) -> Case:
    name = random.choice(list(GARBAGE))
    apart = random.random() < 0.5
    segments = (request(), GARBAGE[name]) if apart else (request() + GARBAGE[name],)
    return Case(f"garbage behind a good one, {'apart' if apart else 'together'}", segments, 2)


def pipelined(random: Random) -> Case:
    count = random.randint(2, 8)
    makers = [random.choice((right, right, wrong)) for _ in range(count)]
    data = b"".join(framed(random, make(random)) for make in makers)
    return Case("pipelined", cut(random, data), count)


def packed(random: Random) -> Case:
    content = json.loads(random.choice((right, wrong))(random))
    try:
        body = msgspec.msgpack.encode(content)
    except OverflowError:
        body = b"\xc1"
    return Case("msgpack", cut(random, framed(random, body, f"Content-Type: {MSGPACK}")))


def large_head(random: Random) -> Case:
    size, count = random.choice(((60_000, 0), (70_000, 0), (10, 100), (10, 300)))
    lines = ("X-Long: " + "a" * size, *["X-Short: a"] * count)
    return Case(f"a head of {size} bytes and {count} lines more", (request(GOOD, *lines),))


def too_large(random: Random) -> Case:
    return Case("too large a body", (framed(random, b" " * 1_048_577),))


MAKERS: tuple[tuple[int, Callable[[Random], Case]], ...] = (
    (30, right_body),
    (15, wrong_body),
    (15, damaged_body),
    (8, other_target),
    (12, other_route),
    (8, odd_headers),
    (2, options),
    (2, old_version),
    (3, upgrade),
    (2, expectation),
    (2, doubtful_length),
    (2, trailers),
    (2, bad_chunks),
    (2, broken),
    (2, garbage),
    (4, pipelined),
    (4, packed),
    (1, large_head),
    (1, too_large),
)


def case(random: Random) -> Case:
    """Draw one case."""
    (make,) = random.choices([m for _, m in MAKERS], [weight for weight, _ in MAKERS])
    return make(random)
