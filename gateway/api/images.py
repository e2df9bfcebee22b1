"""Leaves of which some rows are encoded images: what decodes them, and how they travel."""

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from policy_spec.images import FORMATS, fault
from policy_spec.leaves import IMAGE, RAW
from policy_spec.spaces import LeafSpace
from policy_spec.validate import Image

Data = bytes | tuple[bytes, ...]
"""A leaf of several rows: their raw bytes behind each other, or an element of the tensor
`Leaf.encoded` for each row, in Triton's form of BYTES."""


class EncodedImage(Struct, forbid_unknown_fields=True, gc=False):
    """An image as it came, for a leaf of `shape`. Its header fits; its pixels may be broken."""

    shape: ClassVar[tuple[int, ...]]
    png: bytes | UnsetType = UNSET
    jpeg: bytes | UnsetType = UNSET

    def __post_init__(self) -> None:
        """Check the header. Raises ValueError, which msgspec gives a path."""
        given = [name for name in FORMATS if getattr(self, name) is not UNSET]
        if len(given) != 1:
            raise ValueError(f"Expected one of the fields {', '.join(FORMATS)}")
        if (wrong := fault(self.shape, self.content, given[0])) is not None:
            raise ValueError(wrong)

    @property
    def content(self) -> bytes:
        """The file."""
        return self.png or self.jpeg or b""


def image_type(space: LeafSpace) -> Any:
    """Return the type that msgspec decodes an image of a leaf with."""
    return msgspec.defstruct(
        "EncodedImage", [], bases=(EncodedImage,), namespace={"shape": space.shape}
    )


def gathered(rows: Sequence[bytes | EncodedImage | Image]) -> Data:
    """Return a leaf's rows as they travel: raw if all are, else each with what it is."""
    if any(not isinstance(row, bytes) for row in rows):
        return tuple(
            _element(RAW, row) if isinstance(row, bytes) else _element(IMAGE, row.content)
            for row in rows
        )
    return b"".join(rows)  # type: ignore[arg-type]


def joined(parts: Sequence[Data], counts: Sequence[int]) -> Data:
    """Join a leaf of several requests, as `gathered` does; `counts` are their rows."""
    if any(isinstance(data, tuple) for data in parts):
        return tuple(
            row if isinstance(data, tuple) else _element(RAW, row)
            for data, count in zip(parts, counts, strict=True)
            for row in cut(data, count)
        )
    return b"".join(parts)  # type: ignore[arg-type]


def cut(data: Data, count: int) -> tuple[bytes, ...]:
    """Return the bytes of each row."""
    if isinstance(data, tuple):
        return data
    width = len(data) // count
    return tuple(data[width * index : width * (index + 1)] for index in range(count))


def _element(kind: bytes, content: bytes) -> bytes:
    return b"".join(((len(kind) + len(content)).to_bytes(4, "little"), kind, content))
