"""One input, its answers, and what a run of many came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random


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
    """What was sent, by kind, and answered, by status; `problems` must be empty.

    `reached` of the answers are by the policies themselves.
    """

    sent: Counter[str] = field(default_factory=Counter)
    codes: Counter[int | str] = field(default_factory=Counter)
    reached: int = 0
    problems: list[str] = field(default_factory=list)


Maker = Callable[[Random], Input]
Check = Callable[[Input, Answer], bool]
"""Raises AssertionError for an answer that may not be; says whether a policy itself gave it."""


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
