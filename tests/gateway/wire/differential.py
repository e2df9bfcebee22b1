"""Send the same random requests to two running gateways and compare what they answer.

`python -m tests.gateway.wire.differential URL_A URL_B --count 15000 --seed 1` prints the
differences by kind, each with one example, and exits with 1 where there are any. Timestamps,
request ids, timings, the checkout's commit and drawn seeds (with the actions that follow from
them) are left out. A difference must show three times in a row: a gateway may just be busy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tests.gateway.wire.differential_cases import SEEDS, Case, case
from tests.gateway.wire.wire import MSGPACK

AT_A_TIME = 12
SILENCE_S = 2.0
"""After so long without a byte nothing more is waited for."""
SEGMENT_S = 0.002
REPEATS = 3
LAST = b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-ID: last\r\nConnection: close\r\n\r\n"
"""Sent behind each case, so that it shows whether the connection goes on."""
LEFT_OUT = ("timestamp", "request_id", "timingMs", "git")
UNCOMPARED = ("/metrics",)
SMALL = 1 << 32

Told = list[dict[str, Any]]


class _Reader:
    """Reads the answers on one connection; `end` says how it ended."""

    def __init__(self, stream: asyncio.StreamReader, to_head: bool) -> None:
        self._stream, self._to_head = stream, to_head
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.end = ""

    async def read(self, count: int) -> None:
        """Read until there are so many answers, or no more come."""
        while not self.end and len(self.answers) < count:
            try:
                self.answers.append(await asyncio.wait_for(self._answer(), SILENCE_S))
            except TimeoutError:
                self.end = "silent"
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                partial = getattr(error, "partial", b"")
                self.end = "cut off in an answer" if partial else "closed"

    async def _answer(self) -> tuple[int, dict[str, str], bytes]:
        top = (await self._stream.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = top.split("\r\n")[:-2]
        headers = {
            key.lower(): value.strip() for key, _, value in (x.partition(":") for x in lines)
        }
        status = int(first.split(" ")[1])
        if status == 100:
            return await self._answer()
        only_head = self._to_head and not self.answers
        if only_head or status in (101, 204, 304):
            return status, headers, b""
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int((await self._stream.readuntil(b"\r\n")).split(b";")[0], 16):
                body += (await self._stream.readexactly(size + 2))[:-2]
            await self._stream.readuntil(b"\r\n")
            return status, headers, body
        return status, headers, await self._stream.readexactly(int(headers["content-length"]))


async def _tell(url: str, one: Case) -> Told:
    """Send a case to one gateway and give what it answered, without what is left out."""
    address = urlsplit(url)
    stream, writer = await asyncio.open_connection(address.hostname, address.port, limit=1 << 24)
    reader = _Reader(stream, one.to_head)
    try:
        try:
            for number, segment in enumerate(one.segments):
                if number:
                    await asyncio.sleep(SEGMENT_S)
                writer.write(segment)
                await writer.drain()
            await reader.read(one.answers)
            writer.write(LAST)
            await writer.drain()
        except ConnectionError:
            pass  # what came before it says why
        await reader.read(one.answers + 20)
    finally:
        writer.close()
    told = [
        {"status": status, "body": _body(headers, body)} for status, headers, body in reader.answers
    ]
    if any(target.encode() in one.data[:40] for target in UNCOMPARED):
        told = [{"status": answer["status"]} for answer in told]
    return [*told, {"end": reader.end}]


def _body(headers: dict[str, str], body: bytes) -> Any:
    kind = headers.get("content-type", "")
    try:
        content = msgspec.msgpack.decode(body) if kind == MSGPACK else json.loads(body)
    except ValueError:
        return f"{kind}: {body!r}"
    if isinstance(content, dict) and _drawn(content.get("seed")):
        content["seed"] = "drawn"
        content["actions"] = len(content.get("actions", ()))
    return _without(content)


def _drawn(seed: Any) -> bool:
    """Whether a seed is none that a case gives: one of 53 bits or more that is small is rare."""
    return isinstance(seed, int) and seed >= SMALL and seed not in SEEDS


def _without(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without(value) for key, value in content.items() if key not in LEFT_OUT}
    return [_without(value) for value in content] if isinstance(content, list) else content


def differences(first: Any, second: Any, path: str = "") -> Iterator[str]:
    """Name the places in which two answers differ, numbers of list items left out."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in first.keys() | second.keys():
            one, other = first.get(key, "nothing"), second.get(key, "nothing")
            yield from differences(one, other, f"{path}.{key}".lstrip("."))
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for one, other in zip(first, second, strict=True):
            yield from differences(one, other, path)
    elif first != second:
        short = all(isinstance(one, int) or one == "nothing" for one in (first, second))
        yield f"{path} {first} → {second}" if short else path


def kind_of(first: Told, second: Told) -> str:
    """Name a difference: the statuses where those differ, else the places in the bodies."""
    statuses = [[answer.get("status") for answer in told[:-1]] for told in (first, second)]
    ends = [told[-1]["end"] for told in (first, second)]
    if statuses[0] != statuses[1]:
        named = [
            ", ".join(map(str, s)) + f" ({end})" for s, end in zip(statuses, ends, strict=True)
        ]
        return "statuses " + " → ".join(named)
    places = sorted(set(differences(first, second)))
    codes = {answer.get("status") for answer in first[:-1]} - {200}
    return f"{'/'.join(map(str, sorted(codes, key=str))) or 200}: {', '.join(places)}"


class Run:
    """A run against two gateways; `found` counts the differences by kind."""

    def __init__(self, first: str, second: str, count: int, seed: int) -> None:
        self._urls = (first, second)
        self._count, self._seed = count, seed
        self.sent = Counter[str]()
        self.found = Counter[str]()
        self.examples: dict[str, str] = {}

    async def run(self) -> None:
        numbers = iter(range(self._count))
        await asyncio.gather(*(self._work(numbers) for _ in range(AT_A_TIME)))

    async def _work(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            one = case(Random(f"{self._seed}-{number}"))
            self.sent[one.kind] += 1
            for _ in range(REPEATS):
                first, second = await asyncio.gather(*(_tell(url, one) for url in self._urls))
                if first == second:
                    break
            else:
                kind = f"{one.kind}: {kind_of(first, second)}"
                self.found[kind] += 1
                self.examples.setdefault(kind, _example(number, one, first, second))


def _example(number: int, one: Case, first: Told, second: Told) -> str:
    segments = " | ".join(repr(segment[:400])[2:-1] for segment in one.segments[:4])
    return (
        f"    case {number}: {segments[:1200]}\n"
        f"    A: {json.dumps(first)[:600]}\n    B: {json.dumps(second)[:600]}"
    )


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("first", metavar="URL_A")
    parser.add_argument("second", metavar="URL_B")
    parser.add_argument("--count", type=int, default=15_000, help="how many cases")
    parser.add_argument("--seed", type=int, default=1, help="another seed draws other cases")
    options = parser.parse_args()
    run = Run(options.first, options.second, options.count, options.seed)
    asyncio.run(run.run())
    for kind, count in run.found.most_common():
        print(f"{count:6,}  {kind}\n{run.examples[kind]}")
    total = run.found.total()
    print(f"{run.sent.total():,} cases of {len(run.sent)} kinds, {total:,} differ", end="")
    print(f", in {len(run.found)} ways" if total else "")
    sys.exit(1 if total else 0)


if __name__ == "__main__":
    main()
