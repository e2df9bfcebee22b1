"""The noise that samples actions."""

from __future__ import annotations

import numpy as np
import pytest

from policy_spec.noise import KINDS, NoiseSource
from policy_spec.signature import NOISES


def draw(kind: str, seeds: list[int], rows: list[int], width: int = 3) -> np.ndarray:
    flags = np.zeros(len(seeds), bool)
    return NoiseSource(kind).draw(flags, np.array(seeds, np.int64), np.array(rows), width)


def test_the_kinds_are_those_of_signatures() -> None:
    assert set(KINDS) == {kind for kinds in NOISES.values() for kind in kinds}


def test_normal_noise_is_that_of_numpy() -> None:
    """The re-keyed generator gives what a fresh Philox of the same key and counter gives."""
    for seed, row in ((0, 0), (5, 2), (2**62 + 3, 77)):
        fresh = np.random.Generator(np.random.Philox(key=seed, counter=[0, row, 0, 0]))
        expected = fresh.standard_normal(3, dtype=np.float32)
        assert draw("normal", [3, seed], [1, row])[1].tobytes() == expected.tobytes()


def test_deterministic_rows_have_no_noise() -> None:
    flags = np.array([True, False, True])
    noise = NoiseSource().draw(flags, np.array([1, 2, 3]), np.arange(3), 4)
    assert noise.any(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize("kind", ["normal", "gumbel", "logistic"])
def test_noise_depends_on_seed_and_row_alone(kind: str) -> None:
    together = draw(kind, [7, 7, 8, 2**63 - 1], [0, 1, 0, 999])
    for index, (seed, row) in enumerate([(7, 0), (7, 1), (8, 0), (2**63 - 1, 999)]):
        assert together[index].tobytes() == draw(kind, [seed], [row])[0].tobytes()
    assert len({row.tobytes() for row in together}) == 4


@pytest.mark.parametrize(
    ("kind", "mean", "deviation"),
    [
        ("normal", 0, 1),
        ("gumbel", np.euler_gamma, np.pi / np.sqrt(6)),
        ("logistic", 0, np.pi / np.sqrt(3)),
        ("none", 0, 0),
    ],
)
def test_distribution(kind: str, mean: float, deviation: float) -> None:
    rows = 20_000
    noise = draw(kind, [42] * rows, list(range(rows)), 2)
    assert np.isfinite(noise).all()
    assert noise.mean() == pytest.approx(mean, abs=0.03)
    assert noise.std() == pytest.approx(deviation, abs=0.03)


def test_gumbel_noise_draws_from_the_softmax() -> None:
    logits = np.log(np.array([0.1, 0.2, 0.7]))
    chosen = (logits + draw("gumbel", [1] * 20_000, list(range(20_000)))).argmax(axis=1)
    assert np.bincount(chosen) / 20_000 == pytest.approx([0.1, 0.2, 0.7], abs=0.01)
