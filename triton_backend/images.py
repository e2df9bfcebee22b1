"""Decode the images of a call, each checked by its header before memory is taken."""

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from policy_spec.images import FORMATS, colours_of, fault
from policy_spec.leaves import IMAGE, RAW, Leaf

_FORMATS = [name.upper() for name in FORMATS]
_MODES = {"grey": "L", "RGB": "RGB"}


def decode(leaf: Leaf, elements: Sequence[bytes]) -> NDArray[np.uint8]:
    """Return the pixels in the elements of the tensor `Leaf.encoded`, shape (n, *leaf.dims).

    Raises ValueError with `{"images": [[row, tensor, reason], ...]}` in JSON, which has all rows
    that can't be decoded. A pool of threads was not faster.
    """
    pixels = np.empty((len(elements), *leaf.dims), np.uint8)
    wrong = []
    for row, element in enumerate(elements):
        try:
            pixels[row] = _pixels(leaf, element).reshape(leaf.dims)
        except ValueError as error:
            wrong.append((row, leaf.name, str(error)))
    if wrong:
        raise ValueError(json.dumps({"images": wrong}, ensure_ascii=False))
    return pixels


def _pixels(leaf: Leaf, element: bytes) -> NDArray[np.uint8]:
    """Return one row. Raises ValueError where it is none of the leaf's."""
    kind, content = element[:1], element[1:]
    if kind == RAW:
        if len(content) != leaf.nbytes:
            raise ValueError(f"Expected {leaf.nbytes} bytes, got {len(content)}")
        return np.frombuffer(content, np.uint8)
    if kind != IMAGE:
        raise ValueError("Expected raw bytes or an image")
    if (reason := fault(leaf.space.shape, content)) is not None:
        raise ValueError(reason)
    try:
        image: Any = Image.open(io.BytesIO(content), formats=_FORMATS)
        height, width = leaf.space.shape[:2]
        expected = (1, _MODES[colours_of(leaf.space.shape)], (width, height))
        # Pillow may have found a second header, or more frames.
        if (getattr(image, "n_frames", 1), image.mode, image.size) != expected:
            raise ValueError("another header")
        pixels = np.asarray(image)
    except Exception as error:  # Pillow raises of every kind
        raise ValueError("Expected an image of one frame that can be decoded") from error
    low, high = (
        np.reshape(bound, np.shape(bound) and pixels.shape) for bound in leaf.space.limits()
    )
    if (pixels < low).any() or (pixels > high).any():
        raise ValueError("Expected an image with its pixels within the leaf's bounds")
    return pixels
