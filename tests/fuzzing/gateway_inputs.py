"""Requests to the gateway: bad bodies, heads, framing, and callers that leave."""

from __future__ import annotations

import json
from collections.abc import Iterable
from random import Random
from typing import Any

from tests.fuzzing.exchange import Input, Maker, mutated, split
from tests.gateway.processes import OBSERVATION

LIMIT = 1 << 20

GOOD = json.dumps({"observations": [OBSERVATION], "deterministic": True}).encode()
GOOD_REQUEST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (
    len(GOOD),
    GOOD,
)

NUMBERS = (
    *("1e400", "-1e400", "1" + "0" * 400, "9" * 5000, "1e-400", "-0", "0.0", "5e-324", "1E308"),
    *("NaN", "Infinity", "-Infinity", "0x10", "01", "1.", ".5", "+1", "1e", "true", "null", '"25"'),
    *("9223372036854775807", "9223372036854775808", "-1", "1.5", "[]", "{}", '"\\ud800"'),
)
TEXTS = (
    *(b"", b"null", b"[]", b"0", b'""', b"{", b"}", b"{}", b"\x00", b"\xef\xbb\xbf" + GOOD),
    *(b"\xff\xfe" + GOOD, GOOD.decode().encode("utf-16"), GOOD + GOOD, GOOD + b"\x00", b" " * 5000),
    *(
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"[" * 900 + b"]" * 900,
        b'{"observations":' + b"[" * 9999,
    ),
    GOOD.replace(b'"speed"', b'"speed": 1, "speed"'),
    GOOD.replace(b'"speed"', b'"\\u0073peed"'),
    GOOD.replace(b'"deterministic"', b'"deterministic": false, "deterministic"'),
    GOOD.replace(b'"speed"', b'"sp\xc3\x28eed"'),
    GOOD.replace(b"true", b'"\xed\xa0\x80"'),
    GOOD.replace(b"true", b"tru\xc0\xaf"),
)


def body(random: Random) -> bytes:
    """Make a body for `/predict`, most often a wrong one."""
    choice = random.randrange(6)
    if choice == 0:
        return random.choice(TEXTS)
    if choice == 1:
        return mutated(random, GOOD)
    if choice == 2:
        return random.randbytes(random.randrange(200))
    seen = {**OBSERVATION, "sensors": [random.uniform(-1, 1) for _ in range(5)]}
    content: dict[str, Any] = {"observations": [seen] * random.choice((1, 1, 2, 300, 1001))}
    if random.random() < 0.7:
        content["deterministic"] = random.choice((True, False))
    if random.random() < 0.3:
        content["seed"] = "SEED"
    if random.random() < 0.3:
        content["version"] = random.choice(
            ("v0.1.0", "v9.9.9", "../etc", "v0.1.0\x00", "", 5, "v" * 9999, None)
        )
    if choice == 3:
        where = random.choice(list(seen))
        content["observations"][0] = {**seen, where: "NUMBER"}
    if choice == 4:
        container = random.choice((content, seen))
        container[random.choice(("gear", "", "Speed", "\ud800", "x" * 9999))] = random.choice(
            (1, None, "a", [[[]]])
        )
    text = json.dumps(content, ensure_ascii=random.random() < 0.9)
    for name in ("SEED", "NUMBER"):
        text = text.replace(f'"{name}"', random.choice(NUMBERS))
    return text.encode(errors="surrogatepass")


PATHS = ("/predict", "/warmup", "/metadata", "/versions", "/healthz", "/livez", "/readyz")
TARGETS = (
    *PATHS,
    *("/", "/nothing", "/predict/", "//predict", "/predict?a=b&a", "/predict%00", "/%2e%2e/etc"),
    *("/..%2f..%2fetc/passwd", "/\xff", "/predict#x", "*", "http://other/livez", "/" + "a" * 9000),
    *("/openapi.json", "/docs", "/metrics", "/%zz", "/predict;x", "/livez?" + "a=1&" * 500),
)
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND")
HEADERS = (
    *("X-Deadline-Ms: 1", "X-Deadline-Ms: -1", "X-Deadline-Ms: 1e9", "X-Deadline-Ms: " + "9" * 99),
    *("X-Request-ID: " + "a" * 129, "X-Request-ID: \x7f\xff", "X-Request-ID: abc", "Cookie: a=b"),
    *("Content-Encoding: gzip", "Content-Encoding: br", "Content-Encoding: identity"),
    *("Content-Type: text/plain", "Content-Type: application/json; charset=utf-16"),
    *("Content-Type: \xff", "Content-Type: application/" + "j" * 5000, "Content-Type: ;;;"),
    *("Expect: 100-continue", "Origin: null", "Origin: http://a.b", "Connection: upgrade"),
    *("Authorization: Bearer \xff", "X-API-Key: " + "k" * 4000, "Accept: " + "*/*," * 500),
    *("Access-Control-Request-Method: POST", "Accept-Encoding: " + "gzip;q=0," * 99, "X-Empty:"),
)


def message(
    random: Random, method: str, target: str, content: bytes, headers: Iterable[str] = ()
) -> bytes:
    """Write a request whose framing is right."""
    lines = [f"{method} {target} HTTP/1.1", "Host: x", *headers]
    if random.random() < 0.25:
        head = "\r\n".join([*lines, "Transfer-Encoding: chunked", "", ""]).encode("latin-1")
        return head + chunked(random, content)
    lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def chunked(random: Random, content: bytes) -> bytes:
    parts = [part for part in split(random, content) if part]
    extension = random.choice((b"", b"", b";a=b"))
    written = [b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts]
    return b"".join([*written, b"0\r\n\r\n"])


def bad_body(random: Random) -> Input:
    content = body(random)
    data = message(random, "POST", "/predict", content)
    return Input("bad body", split(random, data), 1, content)


def odd_head(random: Random) -> Input:
    """A wrong method, target or headers, in right framing."""
    usual = random.random() < 0.4
    method = "POST" if usual else random.choice(METHODS)
    target = "/predict" if usual else random.choice(TARGETS)
    headers = random.sample(HEADERS, random.choice((0, 1, 1, 3)))
    content = random.choice((b"", b"{}", GOOD))
    data = message(random, method, target, content, headers)
    # What has no meaning in HTTP may be refused before it has ended: then nothing is sure.
    sure = method in METHODS[:-2] and not any(
        "upgrade" in header or "\x7f" in header for header in headers
    )
    sure = sure and target.startswith("/") and target.isascii()
    return Input("odd head", split(random, data), 1 if sure else None, None, method == "HEAD")


def broken(random: Random) -> Input:
    """Bytes changed anywhere."""
    data = mutated(random, message(random, "POST", "/predict", GOOD))
    return Input("broken", split(random, data))


SIZES = (b"-1", b"zz", b"", b"0x5", b"ffffffffffffffffff", b"7fffffffffffffff", b" 5", b"5;" * 999)


def bad_chunks(random: Random) -> Input:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    head += random.choice((b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: gzip\r\n")) + b"\r\n"
    first = random.choice((b"", b"%x\r\n%b\r\n" % (len(GOOD), GOOD)))
    data = head + first + random.choice(SIZES) + b"\r\n" + GOOD + b"\r\n0\r\n\r\n"
    return Input("bad chunks", split(random, data))


LENGTHS = (b"-1", b"+5", b"1e3", b"9" * 40, b"5, 5", b"0x10", b"", b"1 1", b"\xb2", b"1_0")


def bad_length(random: Random) -> Input:
    value = random.choice(LENGTHS)
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %b\r\n" % value
    head += random.choice((b"", b"Content-Length: %d\r\n" % len(GOOD)))
    return Input("bad length", split(random, head + b"\r\n" + GOOD))


def too_large(random: Random) -> Input:
    """More than MAX_BODY_BYTES: told, or found while it arrives."""
    content = b" " * (LIMIT + random.choice((1, 100_000)))
    if random.random() < 0.5:
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(content)
        return Input("too large", (head, content[:1000]))
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = [b"10000\r\n" + b" " * 65536 + b"\r\n"] * (len(content) // 65536 + 1)
    return Input("too large", (head, *pieces))


def pipelined(random: Random) -> Input:
    count = random.randint(2, 12)
    bodies = [random.choice((GOOD, body(random))) for _ in range(count)]
    data = b"".join(message(random, "POST", "/predict", content) for content in bodies)
    return Input("pipelined", split(random, data), count)


def left(random: Random) -> Input:
    """Ended, whole or in the middle, without waiting for the answer."""
    data = message(random, "POST", "/predict", random.choice((GOOD, body(random))))
    return Input("left", (data[: random.randrange(1, len(data) + 1)],), leaves=True)


GATEWAY_INPUTS: tuple[Maker, ...] = (
    *(bad_body,) * 8,
    *(odd_head,) * 4,
    *(broken, bad_chunks, bad_length, pipelined, left),
)
"""Makers, each as often as it is to be drawn; `too_large` is asked for by itself."""
