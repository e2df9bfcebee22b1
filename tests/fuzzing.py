"""Inputs that no caller should send, made from a seed, over HTTP and over Triton's protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import InvalidArgument, Unsatisfiable
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.gateway.processes import OBSERVATION

CALLERS = 8
PATIENCE_S = 60.0
SILENCE_S = 0.2
"""How long an answer is waited for where none need come: what was sent may be half a request."""
GATEWAY_CODES = {200, 400, 404, 405, 413, 415, 422, 429, 504}
"""504: a deadline of a millisecond, or a body that does not end. Nothing else may be a 5xx."""
TRITON_CODES = {200, 400, 403, 404, 405, 411}
LIMIT = 1 << 20

GOOD = json.dumps({"observations": [OBSERVATION], "deterministic": True}).encode()
GOOD_REQUEST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (
    len(GOOD),
    GOOD,
)

Maker = Callable[[Random], "Input"]


@dataclass(frozen=True)
class Input:
    """What is sent on one connection, in pieces, and what must come back.

    `answers` is how many must come, None where nobody can say: the framing is broken. `body` is
    what `/predict` is asked with, where that is all there is. `leaves` ends the sending side.
    """

    kind: str
    pieces: tuple[bytes, ...]
    answers: int | None = None
    body: bytes | None = None
    no_content: bool = False
    leaves: bool = False


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Outcome:
    """What was sent, by kind, and answered, by status; `problems` must be empty."""

    sent: Counter[str] = field(default_factory=Counter)
    codes: Counter[int | str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


# Bodies.

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


def mutated(random: Random, data: bytes) -> bytes:
    """Change, repeat, drop or insert bytes at a few places."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(changed) + 1)
        length = random.choice((0, 1, 1, 2, 8))
        new = random.choice(
            (b"", random.randbytes(1), random.randbytes(4), changed[at : at + 8], b"\r\n", b"\x00")
        )
        changed[at : at + length] = new
    return bytes(changed)


def split(random: Random, data: bytes) -> tuple[bytes, ...]:
    """Cut at up to four places."""
    at = sorted(random.randrange(len(data) + 1) for _ in range(random.choice((0, 0, 1, 4))))
    return tuple(data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True))


# Requests to the gateway.

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


# Requests to Triton, over HTTP with binary tensors.

ROW = {"speed": (1, "FP32"), "steering": (1, "FP32"), "sensors": (5, "FP32")}
ROW |= {"deterministic": (1, "BOOL"), "seed": (1, "INT64")}
MODELS: dict[str, dict[str, tuple[int, str]]] = {
    "carla_policy": ROW,
    "carla_policy-v0.2.0": ROW,
    "preprocess": ROW,
    "carla_policy_fused-v0.2.0": {"observation": (7, "FP32"), "noise_key": (2, "INT64")},
    "policy_onnx": {"features": (7, "FP32"), "noise": (3, "FP32")},
}
BYTES = {"FP32": 4, "BOOL": 1, "INT64": 8}
KINDS = ("FP16", "FP32", "FP64", "INT8", "INT64", "UINT64", "BOOL", "BYTES", "BF16", "", "fp32")
SHAPES: tuple[list[Any], ...] = (
    *([], [0], [1], [-1, 1], [0, 1], [1, 0], [1, 1, 1], [1, -5], [257, 1], [2**31, 2**31]),
    *([2**62, 4], [2**63 - 1, 1], [1, 2**40]),
)
SPECIAL = (math.nan, math.inf, -math.inf, 3.4e38, -3.4e38, 1e-45, 0.0)


def tensors(random: Random, model: str) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Describe good inputs of a model, and their bytes; numbers may be anything."""
    rows = random.choice((1, 1, 2, 2, 256, 257))
    described, data = [], []
    for name, (width, kind) in MODELS[model].items():
        if kind == "FP32":
            values = np.array(
                [random.choice((0.5, 0.5, 0.5, random.choice(SPECIAL))) for _ in range(width)],
                "<f4",
            )
        elif kind == "INT64":
            values = np.array([random.choice((0, 7, 7, 7, -1, 2**63 - 1, -(2**63)))] * width, "<i8")
        else:
            values = np.array([random.choice((0, 1, 255))] * width, np.uint8)
        data.append(values.tobytes() * rows)
        parameters = {"binary_data_size": len(data[-1])}
        described.append(
            {"name": name, "shape": [rows, width], "datatype": kind, "parameters": parameters}
        )
    return described, data


def wrong_tensors(random: Random, described: list[dict[str, Any]], data: list[bytes]) -> None:
    """Change a shape, a type, a name, a byte count, or the number of tensors."""
    which = random.randrange(len(described))
    one = described[which]
    choice = random.randrange(7)
    if choice == 0:
        one["shape"] = random.choice(SHAPES)
    elif choice == 1:
        one["datatype"] = random.choice(KINDS)
    elif choice == 2:
        one["name"] = random.choice(("", "nothing", "x" * 9999, "speed\x00", "action", "row"))
    elif choice == 3:
        data[which] = data[which][: random.randrange(len(data[which]) + 1)]
    elif choice == 4:
        data[which] += random.randbytes(random.choice((1, 7, 4096)))
    elif choice == 5:
        del described[which], data[which]
    else:
        described.append(dict(one))
        data.append(data[which])


def triton_http(random: Random) -> Input:
    """A request for an inference with something wrong, in right HTTP framing."""
    model = random.choice(list(MODELS))
    described, data = tensors(random, model)
    for _ in range(random.choice((0, 1, 1, 2))):
        if described:
            wrong_tensors(random, described, data)
    choice = random.randrange(8)
    if choice == 0 and described:
        sizes = (-1, 0, 1, 2**31, 2**63, 2**64, 1.5, "4", None)
        random.choice(described)["parameters"]["binary_data_size"] = random.choice(sizes)
    content: dict[str, Any] = {"inputs": described}
    outputs = ([], [{"name": "nothing"}], [{"name": "action"}] * 2, 5, None, [{}])
    content["outputs"] = (
        random.choice(outputs)
        if choice == 1
        else [{"name": "action", "parameters": {"binary_data": True}}]
    )
    if choice == 2:
        key, value = random.choice(
            (
                *(("id", 5), ("id", "x" * 99_999), ("parameters", []), ("inputs", {})),
                *(("parameters", {"sequence_id": -1}), ("parameters", {"timeout": -1})),
                *(("parameters", {"priority": 2**64}), ("inputs", None)),
                ("parameters", {"sequence_start": True, "sequence_id": 2**63}),
            )
        )
        content[key] = value
    if choice == 3 and described:
        random.choice(described)["data"] = random.choice(([], [1e308], [[[[1]]]], ["a"], 5, None))
    text = json.dumps(content).encode()
    if choice == 4:
        text = mutated(random, text)
    length: int | str = len(text)
    if choice == 5:
        length = random.choice((0, -1, 1, len(text) - 1, len(text) + 1, 2**31, 2**63, 2**70, "x"))
    if choice == 6:
        model = random.choice(
            ("nothing", "..", "policy_onnx/versions/99", "carla_policy/versions/x")
        )
    payload = text + b"".join(data)
    if choice == 7:
        payload = payload[: random.randrange(len(payload) + 1)]
    head = (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\n"
        f"Inference-Header-Content-Length: {length}\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    # Triton 2.51 itself misreads a request line that comes in two pieces: 404, 405 or the end of
    # the connection, also for a good request. So it comes whole; the rest is cut.
    line, rest = head.encode().split(b"\n", 1)
    first, *pieces = split(random, rest + payload)
    return Input("tensors over HTTP", (line + b"\n" + first, *pieces), 1)


def triton_control(random: Random) -> Input:
    """Other targets of Triton, the closed ones too, without the secret."""
    target = random.choice(
        (
            *("/v2", "/v2/health/ready", "/v2/models/carla_policy/config", "/v2/models//infer"),
            *("/v2/repository/models/carla_policy/unload", "/v2/logging", "/v2/trace/setting"),
            *("/v2/systemsharedmemory/region/x/register", "/v2/cudasharedmemory/status", "/x"),
            *("/v2/models/carla_policy/stats", "/v2/models/%00/ready", "/v2/repository/index"),
        )
    )
    content = random.choice((b"", b"{}", b"[" * 9000, b"\xff" * 100, b'{"a":1e400}'))
    method = random.choice(("GET", "POST", "PUT"))
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\n"
    head += f"Content-Length: {len(content)}\r\n\r\n"
    return Input("Triton's other routes", (head.encode() + content,), 1)


TRITON_INPUTS: tuple[Maker, ...] = (*(triton_http,) * 9, triton_control)


# Sending.


async def _read(stream: asyncio.StreamReader, no_content: bool = False) -> Answer:
    """Read one answer. Raises EOFError where the connection ends first."""
    try:
        head = await stream.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        raise EOFError(f"the connection ended after {error.partial[:100]!r}") from None
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    status = int(first.split(" ")[1])
    if status == 100:
        return await _read(stream, no_content)
    length = 0 if no_content else int(headers.get("content-length", 0))
    if headers.get("transfer-encoding") == "chunked" and not no_content:
        content = b""
        while size := int((await stream.readline()).split(b";")[0], 16):
            content += (await stream.readexactly(size + 2))[:-2]
        await stream.readline()
        return Answer(status, headers, content)
    return Answer(status, headers, await stream.readexactly(length))


Check = Callable[[Input, Answer], None]


class Sender:
    """Sends inputs to one server and checks what comes back, with a good request after each."""

    def __init__(self, url: str, good: bytes, check: Check, expected: Callable[[Answer], Any]):
        """Take the server, a good request, the check of an answer, and what is in a good one."""
        address = urlsplit(url)
        self._address = address.hostname, address.port
        self._good, self._check, self._expected = good, check, expected
        self.outcome = Outcome()

    def run(self, inputs: Iterable[Input]) -> Outcome:
        """Send all, a few at a time; each connection ends before the next input's begins."""
        asyncio.run(self._run(iter(inputs)))
        return self.outcome

    async def _run(self, inputs: Iterator[Input]) -> None:
        self._right = await self._ask_good()
        await asyncio.gather(*(self._call(inputs) for _ in range(CALLERS)))

    async def _ask_good(self) -> Any:
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            writer.write(self._good)
            return self._expected(await asyncio.wait_for(_read(reader), PATIENCE_S))
        finally:
            writer.close()

    async def _call(self, inputs: Iterator[Input]) -> None:
        for one in inputs:
            if len(self.outcome.problems) > 20:
                return
            self.outcome.sent[one.kind] += 1
            try:
                kept = await self._send(one)
                if not kept and await self._ask_good() != self._right:
                    raise AssertionError("a good request afterwards got another answer")
            except (AssertionError, EOFError, OSError, TimeoutError, ValueError) as error:
                sent = b"".join(one.pieces)
                self.outcome.problems.append(f"{one.kind}: {error!r} for {sent[:2000]!r}")

    async def _send(self, one: Input) -> bool:
        """Send one input; whether a good request was answered right on the same connection."""
        reader, writer = await asyncio.open_connection(*self._address, limit=1 << 22)
        try:
            try:
                for piece in one.pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if one.leaves:
                    writer.write_eof()
            except ConnectionError:
                assert one.answers is None, "the connection ended while it was sent to"
            if one.answers is None:
                await self._take_what_comes(one, reader)
                return False
            for _ in range(one.answers):
                answer = await asyncio.wait_for(_read(reader, one.no_content), PATIENCE_S)
                self._note(one, answer)
                if answer.headers.get("connection", "").lower() == "close":
                    return False
            writer.write(self._good)
            try:
                right = await asyncio.wait_for(_read(reader), PATIENCE_S)
            except (EOFError, ConnectionError):  # it was ended with the refusal: a new one must do
                return False
            got = self._expected(right)
            assert got == self._right, f"a good request behind it got {got}"
            return True
        finally:
            writer.close()

    async def _take_what_comes(self, one: Input, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                answer = await asyncio.wait_for(_read(reader, one.no_content), SILENCE_S)
            except (EOFError, TimeoutError, ConnectionError):
                return
            self._note(one, answer)

    def _note(self, one: Input, answer: Answer) -> None:
        self.outcome.codes[answer.status] += 1
        self._check(one, answer)


def actions(answer: Answer) -> Any:
    """Give the actions of a good answer of `/predict`."""
    assert answer.status == 200, (answer.status, answer.body[:500])
    return json.loads(answer.body)["actions"]


def check_gateway(one: Input, answer: Answer) -> None:
    """Check that an answer of the gateway is one that is documented."""
    assert answer.status in GATEWAY_CODES, (answer.status, answer.body[:500])
    assert answer.headers["x-request-id"]
    if answer.status != 200 and not one.no_content:
        envelope = json.loads(answer.body)
        assert set(envelope) == {"error", "message", "details", "timestamp"}, envelope
        assert envelope["details"]["request_id"] == answer.headers["x-request-id"]
        assert b"Traceback" not in answer.body
    elif one.body is not None:
        asked = json.loads(one.body)
        given = actions(answer)
        assert len(given) == len(asked["observations"])
        assert all(-1 <= number <= 1 for action in given for number in action.values())


def check_by_openapi(url: str, examples: int, derandomize: bool) -> Outcome:
    """Ask each operation of the OpenAPI page as it says and as it does not."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    outcome = Outcome()
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in schemathesis.GenerationMode:
            try:
                strategy = operation.as_strategy(generation_mode=mode)
            except InvalidArgument:
                continue

            @settings(
                max_examples=examples,
                derandomize=derandomize,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=strategy)
            def check(case: Any) -> None:
                response = case.call()
                assert response.status_code in GATEWAY_CODES, response.text[:500]
                outcome.codes[response.status_code] += 1
                case.validate_response(
                    response,
                    checks=[
                        status_code_conformance,
                        content_type_conformance,
                        response_schema_conformance,
                    ],
                )

            with contextlib.suppress(Unsatisfiable):  # nothing to get wrong
                check()
    outcome.sent["by the page"] = outcome.codes.total()
    return outcome


def check_triton(one: Input, answer: Answer) -> None:
    """Check Triton's answer. It says 500 to JSON that it cannot read, and may to nothing else."""
    if answer.status == 500:
        error = json.loads(answer.body)["error"]
        assert "parse" in error or "request params" in error, error[:500]
    else:
        assert answer.status in TRITON_CODES, (answer.status, answer.body[:500])


def anonymous(processes: Iterable[psutil.Process]) -> float:
    """MB that the processes hold for themselves alone, without files that they map."""
    total = 0
    for process in processes:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                total += int(line.split()[1])
    return total / 1024
