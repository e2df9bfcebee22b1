"""Encoded images: what their headers say, read before a pixel is decoded."""

import math
import re
import struct
from typing import NamedTuple

from policy_spec.spaces import LeafSpace

FORMATS = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff"}
"""Formats of images, and the bytes with which one begins."""
MAX_PARTS = 64
"""Chunks of a PNG before its pixels, and segments of a JPEG before its frame header, at most."""
SPARE_BYTES = 1 << 16
"""An image may have twice its pixels' bytes and these, for what else is in the file."""

_PNG_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
_JPEG_COLOURS = {1: "grey", 3: "RGB", 4: "CMYK"}
_JPEG_FRAMES = range(0xFFC0, 0xFFD0)
_JPEG_NO_FRAMES = (0xFFC4, 0xFFC8, 0xFFCC)  # tables, in the same range
_JPEG_TAKEN = (0xFFC0, 0xFFC1, 0xFFC2)
"""Baseline, extended and progressive, with Huffman codes."""


class _Header(NamedTuple):
    width: int
    height: int
    colours: str
    bits: int


def format_of(content: bytes) -> str | None:
    """Return the format of an image by its first bytes, or None."""
    found = (name for name, start in FORMATS.items() if content.startswith(start))
    return next(found, None)


def colours_of(shape: tuple[int, ...]) -> str:
    """Return the colours of an image of shape `[H, W]`, `[H, W, 1]` or `[H, W, 3]`."""
    return "RGB" if shape[2:] == (3,) else "grey"


def channels_of(space: LeafSpace) -> str | None:
    """Return the channels of an image in their order: `grey`, or the `RGB` or `BGR` that the
    leaf's description or unit names; None where they name neither."""
    if colours_of(space.shape) == "grey":
        return "grey"
    named = re.search(r"\b(RGB|BGR)\b", f"{space.description} {space.unit}")
    return named and named[1]


def fault(shape: tuple[int, ...], content: bytes, format: str | None = None) -> str | None:
    """Return why an encoded image does not fit a leaf of `shape`, or None where it seems to.

    Its size, its colours, 8 bits and one frame are read from its header, so the pixels may still
    be broken. `format` is what it must be, one of `FORMATS`.
    """
    found = format_of(content)
    if found is None or format not in (None, found):
        return f"Expected a {format.upper() if format else 'PNG or JPEG'} image"
    most = 2 * math.prod(shape) + SPARE_BYTES
    if len(content) > most:
        return f"Expected an image of at most {most} bytes, got {len(content)}"
    try:
        header = (_png if found == "png" else _jpeg)(content)
    except struct.error:  # it is cut off
        header = f"Expected a {found.upper()} image, and its header can't be read"
    if isinstance(header, str):
        return header
    colours = colours_of(shape)
    if (header.colours, header.bits) != (colours, 8):
        return (
            f"Expected an image in {colours} of 8 bits, got {header.colours} of {header.bits} bits"
        )
    if (header.height, header.width) != shape[:2]:
        came = f"{header.width} × {header.height}"
        return f"Expected an image of {shape[1]} × {shape[0]}, got {came}"
    return None


def _png(content: bytes) -> _Header | str:
    """Read the chunks before the pixels; return what is wrong with them if they are no header."""
    length, kind, width, height, bits, colours = struct.unpack_from(">I4sIIBB", content, 8)
    if (length, kind) != (13, b"IHDR") or colours not in _PNG_COLOURS:
        return "Expected a PNG image, and its header can't be read"
    at = 33
    for _ in range(MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", content, at)
        if kind == b"acTL":
            return "Expected an image of one frame, got an animated one"
        if kind == b"IDAT":
            return _Header(width, height, _PNG_COLOURS[colours], bits)
        at += 12 + length
    return f"Expected a PNG image with at most {MAX_PARTS} chunks before its pixels"


def _jpeg(content: bytes) -> _Header | str:
    """Read the segments up to the frame header; return what is wrong with them if there is none."""
    at = 2
    for _ in range(MAX_PARTS):
        marker, length = struct.unpack_from(">HH", content, at)
        if marker == 0xFFFF:  # a byte that fills
            at += 1
            continue
        if marker in _JPEG_FRAMES and marker not in _JPEG_NO_FRAMES:
            bits, height, width, parts = struct.unpack_from(">BHHB", content, at + 4)
            if marker not in _JPEG_TAKEN:
                return "Expected a baseline or progressive JPEG image"
            return _Header(width, height, _JPEG_COLOURS.get(parts, f"{parts} colours"), bits)
        if not 0xFFC0 <= marker < 0xFFFF or 0xFFD0 <= marker <= 0xFFDA or length < 2:
            return "Expected a JPEG image, and its header can't be read"
        at += 2 + length
    return f"Expected a JPEG image with at most {MAX_PARTS} segments before its frame"
