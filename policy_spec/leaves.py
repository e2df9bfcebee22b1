"""The leaves of an observation space: their names, their tensors, and how a row is packed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from policy_spec.spaces import Dict, LeafSpace, Space, Tuple

Path = tuple[str, ...]
"""Keys from the root to a leaf; parts of a Tuple are `0`, `1`. Empty for a space without parts."""

PACKED = "observation"
"""The tensor of a fused or merged model with all packed leaves."""

RESERVED = frozenset(
    ["observation", "deterministic", "seed", "row", "noise", "noise_key", "nonce", "features"]
    + ["state", "episode_start", "next_state", "action", "policy_action"]
    + ["nonce_echo", "preprocess_nonce"]
)
"""Names of other tensors."""

BINARY_ELEMENTS = 64
"""A Box with more elements than these may be sent as bytes."""
RASTER_ELEMENTS = 4096
"""A leaf of two or more dimensions with more elements than these is a raster. Of a uint8 Box,
`BINARY_ELEMENTS` are enough."""


@dataclass(frozen=True)
class Leaf:
    """One leaf of a space."""

    path: Path
    space: LeafSpace

    @property
    def name(self) -> str:
        """The name of its tensor."""
        return tensor_name(self.path)

    @property
    def triton(self) -> str:
        """Triton's data type, like `FP32`."""
        return self.space.element.triton

    @property
    def dims(self) -> tuple[int, ...]:
        """Triton's dims without the batch; `(1,)` for one number."""
        return self.space.shape or (1,)

    @property
    def nbytes(self) -> int:
        """Bytes of one row."""
        return self.space.size * self.space.element.itemsize

    @property
    def raster(self) -> bool:
        """Whether it is a raster, which goes to the policy's graph as it is, never as features."""
        most = BINARY_ELEMENTS if self.space.dtype == "uint8" else RASTER_ELEMENTS
        return len(self.space.shape) >= 2 and self.space.size > most

    @property
    def packed(self) -> bool:
        """Whether it travels in the packed tensor: it is float32, and no raster."""
        return self.space.dtype == "float32" and not self.raster


def leaves(space: Space) -> tuple[Leaf, ...]:
    """Return the leaves in the card's order."""
    return tuple(_walk(space, ()))


def _walk(space: Space, path: Path) -> Iterator[Leaf]:
    if isinstance(space, Dict):
        for key, part in space.subspaces:
            yield from _walk(part, (*path, key))
    elif isinstance(space, Tuple):
        for index, part in enumerate(space.subspaces):
            yield from _walk(part, (*path, str(index)))
    else:
        yield Leaf(path, space)


def tensor_name(path: Path) -> str:
    """Return the name of a leaf's tensor: its keys joined by dots, odd ones escaped.

    A key keeps its ASCII letters, digits, `_` and `-`. Every other byte of its UTF-8 becomes `%`
    and two hexadecimal digits. An empty key becomes `%`. If the name is reserved, its first letter
    is escaped. The leaf of a space without parts is `observation`.
    """
    if not path:
        return PACKED
    # `quote` never escapes `.` and `~`.
    keys = (quote(key, "").replace(".", "%2E").replace("~", "%7E") or "%" for key in path)
    name = ".".join(keys)
    return f"%{ord(name[0]):02X}{name[1:]}" if name in RESERVED else name


def json_path(prefix: str, path: Path) -> str:
    """Return the path that errors name, like `observations.3.camera.front`."""
    return ".".join((prefix, *path))


@dataclass(frozen=True)
class Slot:
    """A leaf's place in the packed tensor: elements `offset` to `offset + leaf.space.size`."""

    leaf: Leaf
    offset: int


@dataclass(frozen=True)
class Layout:
    """How one row travels to a fused or merged model.

    Attributes:
        packed: leaves in the tensor `observation`, FP32, in the card's order.
        width: elements of that tensor; 0 where no leaf is packed, and then there is no tensor.
        apart: leaves with a tensor of their own, under their own names.
    """

    packed: tuple[Slot, ...]
    width: int
    apart: tuple[Leaf, ...]

    @classmethod
    def of(cls, space: Space) -> Layout:
        """Lay out the leaves of an observation space."""
        slots, width = [], 0
        found = leaves(space)
        for leaf in found:
            if leaf.packed:
                slots.append(Slot(leaf, width))
                width += leaf.space.size
        return cls(tuple(slots), width, tuple(leaf for leaf in found if not leaf.packed))

    def join(self, row: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return one row's bytes by tensor of a fused model, given those of each leaf's tensor."""
        joined = {leaf.name: row[leaf.name] for leaf in self.apart}
        if self.width:
            joined[PACKED] = b"".join(row[slot.leaf.name] for slot in self.packed)
        return joined
