"""The noise that samples actions. Triton's backend and the native gateway draw the same bits."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def _normal(generator: np.random.Generator, out: Floats) -> None:
    generator.standard_normal(out=out, dtype=np.float32)


def _gumbel(generator: np.random.Generator, out: Floats) -> None:
    out[:] = generator.gumbel(size=len(out))


def _logistic(generator: np.random.Generator, out: Floats) -> None:
    out[:] = generator.logistic(size=len(out))


KINDS: dict[str, Callable[[np.random.Generator, Floats], None] | None] = {
    "normal": _normal,
    "gumbel": _gumbel,
    "logistic": _logistic,
    "none": None,
}
"""Kind of noise → what draws one row of it."""


class NoiseSource:
    """Standard noise of one kind that depends on a row's seed and index alone.

    Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") is counter-based: the
    key is the seed, the counter's second word the row's index, and its first word counts the draws
    of one row. So a row gets the same noise in every batch. One generator gets a new key for each
    row, which costs a fifth of a new generator. Use it in one thread at a time.
    """

    def __init__(self, kind: str = "normal") -> None:
        """Make the one generator; `kind` is one of `KINDS`. Raises KeyError for another."""
        self._draw_row = KINDS[kind]
        self._bits = np.random.Philox(key=0)
        self._generator = np.random.Generator(self._bits)
        self._state = self._bits.state

    def draw(
        self,
        deterministic: NDArray[np.bool_],
        seed: NDArray[np.int64],
        row: NDArray[np.int64],
        width: int,
    ) -> Floats:
        """Return noise, shape (n, width), for n rows; zeros for rows that are `deterministic`.

        `seed` (0 to 2^63-1) and `row` (0 and up) have shape (n,). Of the kind `none` all is zero.
        """
        noise = np.zeros((len(seed), width), np.float32)
        if self._draw_row is None:
            return noise
        words = self._state["state"]
        for index in np.flatnonzero(~deterministic):
            words["key"][0] = seed[index]
            words["counter"][1] = row[index]
            self._bits.state = self._state
            self._draw_row(self._generator, noise[index])
        return noise
