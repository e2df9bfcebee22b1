"""Images in files, good and bad, of 96 × 96 in RGB."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def picture(seed: int, shape: tuple[int, ...] = (96, 96, 3), high: int = 255) -> np.ndarray:
    """Something smooth, so that a JPEG is much like it."""
    phase = np.random.default_rng(seed).uniform(0, 6, shape[2:] or (1,))
    y, x = np.mgrid[: shape[0], : shape[1]][..., None] / 9
    pixels = (np.sin(x + phase) + np.cos(y - phase) + 2) * high / 4
    return np.asarray(pixels, np.uint8).reshape(shape)


def encoded(pixels: np.ndarray | Image.Image, format: str = "png", **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def header(width: int, height: int, bits: int = 8, colours: int = 2) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))


SIGNATURE = b"\x89PNG\r\n\x1a\n"
GOOD = Image.fromarray(picture(1))
PNG, JPEG = encoded(GOOD), encoded(GOOD, "jpeg")
MORE = [Image.fromarray(picture(seed)) for seed in (1, 2)]
PIXELS = chunk(b"IDAT", zlib.compress(bytes(900)))
END = chunk(b"IEND", b"")

BY_HEADER: dict[str, tuple[dict[str, Any], str]] = {
    "another size": ({"png": encoded(picture(1, (96, 128, 3)))}, "got 128 × 96"),
    "another size, JPEG": ({"jpeg": encoded(picture(1, (84, 96, 3)), "jpeg")}, "got 96 × 84"),
    "RGBA": ({"png": encoded(GOOD.convert("RGBA"))}, "got RGBA of 8 bits"),
    "palette": ({"png": encoded(GOOD.convert("P"))}, "got palette of 8 bits"),
    "grey": ({"png": encoded(GOOD.convert("L"))}, "got grey of 8 bits"),
    "grey JPEG": ({"jpeg": encoded(GOOD.convert("L"), "jpeg")}, "got grey of 8 bits"),
    "CMYK": ({"jpeg": encoded(GOOD.convert("CMYK"), "jpeg")}, "got CMYK of 8 bits"),
    "16 bit": ({"png": SIGNATURE + header(96, 96, 16) + PIXELS + END}, "got RGB of 16 bits"),
    "animated": ({"png": encoded(GOOD, "png", save_all=True, append_images=MORE)}, "animated"),
    "bomb": (
        {"png": SIGNATURE + header(30_000, 30_000) + PIXELS + END},
        "Expected an image of 96 × 96, got 30000 × 30000",
    ),
    "cut in its header": ({"png": PNG[:40]}, "its header can't be read"),
    "cut in its header, JPEG": ({"jpeg": JPEG[:100]}, "its header can't be read"),
    "lossless JPEG": ({"jpeg": JPEG.replace(b"\xff\xc0", b"\xff\xc3")}, "baseline or progressive"),
    "many chunks": (
        {"png": SIGNATURE + header(96, 96) + chunk(b"tEXt", b"a\0b") * 5000 + PNG[33:]},
        "at most 64 chunks",
    ),
    "much else": (
        {"png": PNG[:33] + chunk(b"tEXt", bytes(200_000)) + PNG[33:]},
        "Expected an image of at most 120832 bytes",
    ),
    "a JPEG as PNG": ({"png": JPEG}, "Expected a PNG image"),
    "a PNG as JPEG": ({"jpeg": PNG}, "Expected a JPEG image"),
    "no image": ({"png": b"GIF89a"}, "Expected a PNG image"),
    "empty": ({"png": b""}, "Expected a PNG image"),
    "both": ({"png": PNG, "jpeg": JPEG}, "Expected one of the fields png, jpeg"),
    "none": ({}, "Expected one of the fields png, jpeg"),
}  # fmt: skip
"""Name → the leaf's value with bytes, and what the error says."""

DECODING = "Expected an image of one frame that can be decoded"
BY_DECODING: dict[str, tuple[dict[str, Any], str]] = {
    "truncated": ({"png": PNG[: len(PNG) // 2]}, DECODING),
    "truncated JPEG": ({"jpeg": JPEG[: len(JPEG) // 2]}, DECODING),
    "a flipped bit": ({"png": PNG[:500] + bytes([PNG[500] ^ 1]) + PNG[501:]}, DECODING),
    "pixels that are none": ({"png": PNG[:33] + chunk(b"IDAT", b"no zlib") + END}, DECODING),
    "too few pixels": ({"png": PNG[:33] + PIXELS + END}, DECODING),
    "several frames": ({"jpeg": encoded(GOOD, "mpo", save_all=True, append_images=MORE)}, DECODING),
    "a second header": ({"png": PNG[:33] + header(30_000, 30_000) + PNG[33:]}, DECODING),
    "much text": (
        {"png": PNG[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000))) + PNG[33:]},
        DECODING,
    ),
}  # fmt: skip
