"""Where a module's Python decides by an observation's numbers, which a trace would not have."""

import linecache
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

_TORCH = str(Path(torch.__file__).parent)
_METHODS = (
    "__bool__ __int__ __float__ __index__ __contains__ item tolist numpy __array__ is_nonzero"
)
_TAKEN = {getattr(Tensor, name) for name in (*_METHODS.split(), "equal", "allclose")}
_TAKEN |= {torch.equal, torch.allclose, torch.is_nonzero}
"""What makes numbers of Python or of numpy out of a tensor's."""


class Branches(TorchFunctionMode):
    """Finds the first place where Python takes numbers out of a tensor that comes from `inputs`.

    Sizes are none of them. Places in torch itself, which checks its arguments so, do not count, and
    neither does an `assert`. `found` is "FILE, line N", or None.
    """

    def __init__(self, *inputs: Tensor) -> None:
        """Take the tensors that an observation is."""
        super().__init__()
        self.found: str | None = None
        self._kept: list[Tensor] = []  # alive, so that no other storage gets their address
        self._known: set[int] = set()
        self._keep(inputs)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, and note what comes of an observation."""
        given = tree_leaves((args, kwargs))
        if any(_storage(one) in self._known for one in given if isinstance(one, Tensor)):
            if func in _TAKEN and self.found is None:
                self.found = _place(sys._getframe(1))
            made = func(*args, **(kwargs or {}))
            self._keep((made, args[0]) if _changes(func) else made)
            return made
        return func(*args, **(kwargs or {}))

    def _keep(self, made: Any) -> None:
        for one in tree_leaves(made):
            if isinstance(one, Tensor):
                self._kept.append(one)
                self._known.add(_storage(one))


def _storage(one: Tensor) -> int:
    return int(one.untyped_storage()._cdata)


def _changes(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _place(frame: FrameType | None) -> str | None:
    """Return where the user's code is, None for torch itself and for an `assert`."""
    passed = (f"{_TORCH}/_tensor.py", f"{_TORCH}/overrides.py")
    while frame is not None and frame.f_code.co_filename in passed:
        frame = frame.f_back
    if frame is None or frame.f_code.co_filename.startswith(_TORCH):
        return None
    file, line = frame.f_code.co_filename, frame.f_lineno
    if linecache.getline(file, line).lstrip().startswith("assert "):
        return None
    return f"{file}, line {line}"
