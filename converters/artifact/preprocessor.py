"""The statistics of a trained preprocessor → `Preprocessing`."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.artifact.pickles import Array, Record
from policy_spec.signature import Signature
from triton_backend.preprocessing import Preprocessing, Step

MASK = "action_mask"
"""The leaf of an action mask, the last of its observation. A wrapper normalises what is before."""

_MOST_PARTS = 100
"""How many parts nested pipelines may have."""


def lower(preprocessor: Record | None, signature: Signature) -> Preprocessing:
    """Convert what `pickles.load` returned; None means no preprocessing.

    Raises ValueError if the object is no preprocessor, or one for another number of inputs.
    """
    try:
        with np.errstate(all="ignore"):  # Preprocessing refuses what is not finite
            plain = Preprocessing.of(signature)
            steps = (step for part in parts(preprocessor) for step in _steps(part, plain))
            return Preprocessing.of(signature, tuple(steps))
    except ValueError:
        raise
    except Exception as error:  # attributes of a damaged or hostile object can cause any error
        kind = getattr(preprocessor, "kind", "object")
        reason = f"{type(error).__name__}: {error}"[:200]
        raise ValueError(f"{kind} does not have the attributes of one: {reason}") from None


def parts(preprocessor: Any) -> list[Any]:
    """Return the parts of a pipeline and of the pipelines inside it, in order."""
    waiting, parts = [] if preprocessor is None else [preprocessor], []
    seen = 0
    while waiting:
        part = waiting.pop()
        seen += 1
        if seen > _MOST_PARTS:
            raise ValueError(f"a pipeline of more than {_MOST_PARTS} parts, or one within itself")
        if _kind(part) == "Pipeline":
            waiting += [inner for _, inner in reversed(part.steps[:_MOST_PARTS])]
        else:
            parts.append(part)
    return parts


def _kind(part: Any) -> str:
    return type(part).kind if isinstance(part, Record) else type(part).__name__


def _steps(part: Any, plain: Preprocessing) -> tuple[Step, ...]:
    kind = _kind(part)
    if not isinstance(part, Record) or kind not in ("VecNormalize", *_LOWERINGS):
        known = ", ".join(("VecNormalize", *_LOWERINGS))
        raise ValueError(f"{kind} is no preprocessor: expected one of {known}")
    try:
        if kind == "VecNormalize":
            return _vec_normalize(part, plain)
        return _LOWERINGS[kind](part)
    except AttributeError as error:
        raise ValueError(f"{kind} was never fitted: {error}") from None


def _numbers(array: Any) -> NDArray[np.float64]:
    """Return the numbers of an array or of a flat sequence, never of a nested one."""
    if isinstance(array, Array):
        array = array.values
    if isinstance(array, list | tuple):
        array = [float(value) for value in array if isinstance(value, int | float)]
    if not isinstance(array, np.ndarray | list | int | float | np.number):
        raise ValueError(f"{type(array).__name__} where an array of numbers should be")
    return np.asarray(array, np.float64).ravel()


def _values(array: Any) -> tuple[float, ...]:
    return tuple(_numbers(array).tolist())


def _vec_normalize(record: Any, plain: Preprocessing) -> tuple[Step, ...]:
    """`VecNormalize.normalize_obs`: clip((obs - mean) / sqrt(var + epsilon), ±clip_obs).

    Of a Dict, it has statistics for some keys. Each then has steps for its own columns.
    """
    if not record.norm_obs:
        return ()
    columns, steps = plain.columns, list[Step]()
    if not isinstance(record.obs_rms, dict):
        found = _normalize(record, record.obs_rms)
        seen = (0, columns[(MASK,)][0] if (MASK,) in columns else plain.width)
        masked = 0 < seen[1] == len(found[0][1]) < plain.width
        return tuple((*step, seen) for step in found) if masked else found
    for key, statistics in record.obs_rms.items():
        if (key,) not in columns:
            raise ValueError(f"VecNormalize has statistics of {key!r}, which is no leaf")
        steps += [(*step, columns[(key,)]) for step in _normalize(record, statistics)]
    return tuple(steps)


def _normalize(record: Any, statistics: Any) -> tuple[tuple[str, tuple[float, ...]], ...]:
    return (
        ("subtract", _values(statistics.mean)),
        ("divide", _values(np.sqrt(_numbers(statistics.var) + float(record.epsilon)))),
        ("clip", (-float(record.clip_obs), float(record.clip_obs))),
    )


def _centred(record: Any, centre: str, with_centre: bool, with_scale: bool) -> tuple[Step, ...]:
    first = (("subtract", _values(getattr(record, centre))),) if with_centre else ()
    return (*first, *((("divide", _values(record.scale_)),) if with_scale else ()))


def _min_max(record: Any) -> tuple[Step, ...]:
    low, high = record.feature_range
    clip: tuple[Step, ...] = (("clip", (float(low), float(high))),) if record.clip else ()
    return (("multiply", _values(record.scale_)), ("add", _values(record.min_)), *clip)


def _max_abs(record: Any) -> tuple[Step, ...]:
    """Divide; `clip` came with scikit-learn 1.8."""
    clip: tuple[Step, ...] = (("clip", (-1.0, 1.0)),) if getattr(record, "clip", False) else ()
    return (("divide", _values(record.scale_)), *clip)


_LOWERINGS: dict[str, Callable[[Any], tuple[Step, ...]]] = {
    "StandardScaler": lambda record: _centred(record, "mean_", record.with_mean, record.with_std),
    "MinMaxScaler": _min_max,
    "MaxAbsScaler": _max_abs,
    "RobustScaler": lambda record: _centred(
        record, "center_", record.with_centering, record.with_scaling
    ),
    "Preprocessing": lambda record: tuple(
        (name, _values(values), *((int(a), int(b)) for a, b in columns))
        for name, values, *columns in record.steps
    ),
}
