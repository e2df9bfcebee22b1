"""The data types of a leaf: limits, and the little-endian bytes that travel."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

Number = int | float


@dataclass(frozen=True)
class DType:
    """One data type.

    Attributes:
        name: numpy's name.
        triton: name in Triton's protocol; in `config.pbtxt` with `TYPE_` before it.
        code: of `struct`.
        low: the smallest finite value.
        high: the largest finite value.
    """

    name: str
    triton: str
    code: str
    low: Number
    high: Number

    @property
    def floating(self) -> bool:
        """Whether it holds fractions."""
        return self.code in "efd"

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return struct.calcsize(f"<{self.code}")

    def pack(self, values: Sequence[Number]) -> bytes:
        """Return the bytes of `values`; raise OverflowError or struct.error if one is too large."""
        return struct.pack(f"<{len(values)}{self.code}", *values)

    def unpack(self, content: bytes) -> tuple[Number, ...]:
        """Return the elements; `content` must hold a whole number of them."""
        return struct.unpack(f"<{len(content) // self.itemsize}{self.code}", content)

    def round(self, value: Number) -> Number:
        """Return the nearest value of this type; raise as `pack` does."""
        return self.unpack(self.pack([value]))[0]


def _integer(bits: int, signed: bool) -> DType:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    code = {8: "b", 16: "h", 32: "i", 64: "q"}[bits]
    name = f"int{bits}" if signed else f"uint{bits}"
    return DType(name, name.upper(), code if signed else code.upper(), low, high)


def _floating(bits: int, code: str, high: str) -> DType:
    return DType(f"float{bits}", f"FP{bits}", code, -float.fromhex(high), float.fromhex(high))


DTYPES = {
    dtype.name: dtype
    for dtype in (
        _floating(16, "e", "0x1.ffcp15"),
        _floating(32, "f", "0x1.fffffep127"),
        _floating(64, "d", "0x1.fffffffffffffp1023"),
        *(_integer(bits, True) for bits in (8, 16, 32, 64)),
        *(_integer(bits, False) for bits in (8, 16, 32)),
    )
}
"""By numpy's name. uint64 is not one of them: JSON decoders check bounds in 64 signed bits."""
