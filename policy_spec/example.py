"""An example observation: seeded, within the bounds, in JSON form."""

import binascii
import math
import random
from itertools import cycle, islice
from typing import Any

from policy_spec.dtypes import Number
from policy_spec.leaves import RASTER_ELEMENTS
from policy_spec.signature import sensors_of
from policy_spec.spaces import Dict, LeafSpace, Space, Tuple, at, nest
from policy_spec.validate import takes_bytes

USUAL = 1_000_000
"""A range wider than this is not drawn from as a whole."""
SENSORS = (0.8, 0.2, 0.5, 0.9, 0.1)


def example(space: Space, seed: int = 0) -> Any:
    """Return an observation in JSON form; the same seed gives the same one.

    Numbers are rounded to four digits where the bounds allow it. A Box that may be sent as bytes
    is base64; in a large one, `RASTER_ELEMENTS` numbers are repeated. Of speed, steering and
    sensors, seed 0 gives the one that the documents show.
    """
    count = sensors_of(space)
    if count is not None and seed == 0:
        sensors = list(islice(cycle(SENSORS), count))
        return {"speed": 25.5, "steering": 0.1, "sensors": sensors}
    return _draw(space, random.Random(seed))


def _draw(space: Space, source: random.Random) -> Any:
    if isinstance(space, Dict):
        return {key: _draw(part, source) for key, part in space.subspaces}
    if isinstance(space, Tuple):
        return [_draw(part, source) for part in space.subspaces]
    low, high = space.limits()
    alike = not isinstance(low, tuple) and not isinstance(high, tuple)
    count = min(space.size, RASTER_ELEMENTS) if alike else space.size
    numbers = [_number(space, at(low, i), at(high, i), source) for i in range(count)]
    numbers = list(islice(cycle(numbers), space.size))
    if takes_bytes(space):
        return binascii.b2a_base64(space.element.pack(numbers), newline=False).decode()
    return nest(numbers, space.shape)


def _number(space: LeafSpace, low: Number, high: Number, source: random.Random) -> Number:
    if high - low > USUAL:
        # Near zero, or near the bound that is nearest to it.
        if low > -1:
            high = low + 1 if math.isfinite(low + 1) and low + 1 > low else high
        elif high < 1:
            low = high - 1 if high - 1 < high else low
        else:
            low, high = -1, 1
    if not space.element.floating:
        return source.randint(int(low), int(high))
    value = min(max(source.uniform(low, high), low), high)
    return short if low <= (short := round(value, 4)) <= high else value
