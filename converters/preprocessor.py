"""A trained preprocessor's statistics, lowered into `Preprocessing`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from converters.pickles import Record
from triton_backend.preprocessing import Preprocessing, Step


def lower(preprocessor: Record | None, sensors: int, noise: int) -> Preprocessing:
    """Lower what `pickles.load` read, or None for no preprocessing.

    Raises ValueError for an object that is no preprocessor, or one of another width.
    """
    steps = () if preprocessor is None else _steps(preprocessor)
    return Preprocessing(sensors, noise, steps)


def _steps(preprocessor: Any) -> tuple[Step, ...]:
    kind = getattr(preprocessor, "kind", type(preprocessor).__name__)
    if kind == "Pipeline":
        return tuple(step for _, part in preprocessor.steps for step in _steps(part))
    if kind not in _LOWERINGS:
        raise ValueError(f"{kind} is no preprocessor: expected one of {', '.join(_LOWERINGS)}")
    try:
        return _LOWERINGS[kind](preprocessor)
    except AttributeError as error:
        raise ValueError(f"{kind} was never fitted: {error}") from None


def _values(array: Any) -> tuple[float, ...]:
    return tuple(np.asarray(array, np.float64).ravel().tolist())


def _vec_normalize(record: Any) -> tuple[Step, ...]:
    """`VecNormalize.normalize_obs`: clip((obs - mean) / sqrt(var + epsilon), ±clip_obs)."""
    if not record.norm_obs:
        return ()
    if not hasattr(record.obs_rms, "mean"):
        raise ValueError("VecNormalize of dictionary observations is not supported")
    return (
        ("subtract", _values(record.obs_rms.mean)),
        ("divide", _values(np.sqrt(record.obs_rms.var + record.epsilon))),
        ("clip", (-float(record.clip_obs), float(record.clip_obs))),
    )


def _standard(record: Any) -> tuple[Step, ...]:
    centre = (("subtract", _values(record.mean_)),) if record.with_mean else ()
    scale = (("divide", _values(record.scale_)),) if record.with_std else ()
    return (*centre, *scale)


def _min_max(record: Any) -> tuple[Step, ...]:
    low, high = record.feature_range
    clip: tuple[Step, ...] = (("clip", (float(low), float(high))),) if record.clip else ()
    return (("multiply", _values(record.scale_)), ("add", _values(record.min_)), *clip)


def _max_abs(record: Any) -> tuple[Step, ...]:
    return (("divide", _values(record.scale_)),)


def _robust(record: Any) -> tuple[Step, ...]:
    centre = (("subtract", _values(record.center_)),) if record.with_centering else ()
    scale = (("divide", _values(record.scale_)),) if record.with_scaling else ()
    return (*centre, *scale)


def _own(record: Any) -> tuple[Step, ...]:
    return tuple((str(name), _values(values)) for name, values in record.steps)


_LOWERINGS: dict[str, Callable[[Any], tuple[Step, ...]]] = {
    "VecNormalize": _vec_normalize,
    "StandardScaler": _standard,
    "MinMaxScaler": _min_max,
    "MaxAbsScaler": _max_abs,
    "RobustScaler": _robust,
    "Preprocessing": _own,
}
