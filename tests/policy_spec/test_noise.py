"""The noise that samples actions."""

from __future__ import annotations

import numpy as np
import pytest

from policy_spec.noise import KINDS, NoiseSource
from policy_spec.signature import NOISES
from triton_backend import preprocessing


def draw(kind: str, seeds: list[int], rows: list[int], width: int = 3) -> np.ndarray:
    flags = np.zeros(len(seeds), bool)
    return NoiseSource(kind).draw(flags, np.array(seeds, np.int64), np.array(rows), width)


def test_the_kinds_are_those_of_signatures() -> None:
    assert set(KINDS) == {kind for kinds in NOISES.values() for kind in kinds}


def test_normal_noise_has_the_bits_of_the_backend() -> None:
    source = np.random.default_rng(0)
    seed = source.integers(0, 2**63 - 1, 500, np.int64)
    row = source.integers(0, 1000, 500, np.int64)
    flags = source.random(500) < 0.2
    for width in (1, 3, 17):
        theirs = preprocessing.NoiseSource().draw(flags, seed, row, width)
        ours = NoiseSource().draw(flags, seed, row, width)
        assert ours.tobytes() == theirs.tobytes()
        assert not ours[flags].any()


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
