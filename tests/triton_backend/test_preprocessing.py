from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from policy_spec.signature import driving_space
from triton_backend.preprocessing import Preprocessing


def test_round_trip_keeps_all_bits(tmp_path: Path) -> None:
    values = tuple(np.random.default_rng(0).normal(size=7).tolist())
    before = Preprocessing(
        driving_space(5), 3, (("subtract", values), ("divide", values), ("clip", (-1.0, 1.0)))
    )
    (tmp_path / "p.json").write_text(before.dumps())
    assert Preprocessing.load(tmp_path / "p.json") == before


def test_steps_in_order() -> None:
    steps = (("add", (1.0, 2.0, 3.0)), ("multiply", (2.0, 2.0, 2.0)), ("clip", (0.0, 6.0)))
    features = Preprocessing(driving_space(1), 2, steps).features(
        np.array([[1, -3, 9]], np.float32)
    )
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
        Preprocessing(driving_space(1), 2, (step,))
