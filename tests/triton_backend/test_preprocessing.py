from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from triton_backend.preprocessing import NoiseSource, Preprocessing


def test_round_trip_keeps_all_bits(tmp_path: Path) -> None:
    values = tuple(np.random.default_rng(0).normal(size=7).tolist())
    before = Preprocessing(5, 3, (("subtract", values), ("divide", values), ("clip", (-1.0, 1.0))))
    (tmp_path / "p.json").write_text(before.dumps())
    assert Preprocessing.load(tmp_path / "p.json") == before


def test_steps_in_order() -> None:
    steps = (("add", (1.0, 2.0, 3.0)), ("multiply", (2.0, 2.0, 2.0)), ("clip", (0.0, 6.0)))
    features = Preprocessing(1, 2, steps).features(np.array([[1, -3, 9]], np.float32))
    np.testing.assert_array_equal(features, np.array([[4, 0, 6]], np.float32))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (("exec", (1.0,) * 3), "unknown"),
        (("add", (1.0,)), "takes 3 values"),
        (("clip", (1.0,)), "takes 2 values"),
        (("divide", (1.0, 0.0, 1.0)), "zero divisor"),
        (("add", (1.0, float("nan"), 1.0)), "not finite"),
    ],
)
def test_refused(step: tuple[str, tuple[float, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing(1, 2, (step,))


def _draw(seeds: list[int], rows: list[int], deterministic: bool = False) -> np.ndarray:
    flags = np.full(len(seeds), deterministic)
    return NoiseSource().draw(flags, np.array(seeds, np.int64), np.array(rows), 3)


def test_noise_depends_on_seed_and_row_alone() -> None:
    together = _draw([7, 7, 8, 2**63 - 1], [0, 1, 0, 999])
    for index, (seed, row) in enumerate([(7, 0), (7, 1), (8, 0), (2**63 - 1, 999)]):
        assert together[index].tobytes() == _draw([seed], [row])[0].tobytes()
    assert len({row.tobytes() for row in together}) == 4


def test_noise_is_that_of_numpy() -> None:
    """The re-keyed generator gives what a fresh Philox of the same key and counter gives."""
    for seed, row in ((0, 0), (5, 2), (2**62 + 3, 77)):
        fresh = np.random.Generator(np.random.Philox(key=seed, counter=[0, row, 0, 0]))
        expected = fresh.standard_normal(3, dtype=np.float32)
        assert _draw([3, seed], [1, row])[1].tobytes() == expected.tobytes()


def test_noise_is_normal_and_absent_where_deterministic() -> None:
    assert not _draw([1, 2], [0, 0], deterministic=True).any()
    rows = 20_000
    noise = _draw([42] * rows, list(range(rows)))
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.03
