"""TorchScript programs of policies: made, opened and checked."""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from converters.artifact import artifact
from converters.artifact.card import ArtifactError
from converters.artifact.policy import zeros_of
from converters.errors import one_line
from policy_spec.leaves import Leaf

ROWS = 16
"""Rows of random features and rasters that a program is checked on."""

Inputs = tuple[Tensor, ...]

_EVAL = "call eval() on the policy before it is traced"


def trace(policy: nn.Module, features: int, rasters: Sequence[Leaf] = ()) -> bytes:
    """Return the TorchScript file of a policy: what `Scripted` gives it → what it returns.

    That is (n, features), left away where there are none, and each raster, (n, *shape) of its own
    type.
    """
    rows = (torch.zeros(2, features),) if features else ()
    given = (*rows, *(zeros_of(leaf, 2) for leaf in rasters))
    traced = torch.jit.trace(policy.eval(), given)  # type: ignore[no-untyped-call]
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    return buffer.getvalue()


class _Second(nn.Module):
    """A program whose second output is a logarithm of the standard deviation, or left away."""

    def __init__(self, program: Any, second: str) -> None:
        super().__init__()
        self.program, self.second = program, second

    def forward(self, *inputs: Tensor) -> Any:
        action, other = self.program(*inputs)
        if self.second == "ignore":
            return action
        return action, (other.exp() if self.second == "log-std" else other).expand_as(action)


def read(
    path: Path, data: bytes, features: int, rasters: Sequence[Leaf], second: str | None
) -> tuple[bytes, int, bool]:
    """Check a program; return its bytes, the width of its output, and whether it has a deviation.

    It is called as `trace` says, with random numbers.
    `second` says what a second output is: `std`, `log-std`, or `ignore` for one that is none, as a
    value. Raises ArtifactError for a program that can't be a policy's, and one whose second output
    is no standard deviation and `second` is None.
    """
    program = _open(path, data)
    source = np.random.RandomState(0)
    normal = torch.from_numpy(source.normal(size=(ROWS, features))).to(torch.float32)
    rows = ((normal,) if features else ()) + tuple(_random(leaf, source) for leaf in rasters)
    parts = _outputs(path, program, rows)
    if second is not None and len(parts) != 2:
        raise ArtifactError(f"{path}: --second-output: it has one output alone")
    if second is not None:
        if second != "ignore" and parts[1].shape[-1:] != parts[0].shape[-1:]:
            _check_std(path, parts, asked=True)
        data = trace(_Second(program, second), features, rasters)
        program = _open(path, data)
        parts = _outputs(path, program, rows)
    if len(parts) == 2:
        _check_std(path, parts, asked=second is not None)
    _check_repeats(path, program, rows, parts)
    return data, parts[0].shape[1], len(parts) == 2


def _open(path: Path, data: bytes) -> Any:
    try:
        program = artifact.open_program(data)
    except Exception as error:  # whatever a damaged file can provoke in torch
        raise ArtifactError(f"{path}: no TorchScript program: {one_line(error)}") from None
    if not hasattr(program, "forward"):
        raise ArtifactError(f"{path}: it has no method forward, which gives an action")
    kept = re.search(r'prim::SetAttr\[name="(.*?)"\]', str(program.inlined_graph))
    if kept:
        raise ArtifactError(
            f"{path}: it changes its attribute {kept[1]} whenever it is called, and a policy must "
            "remember nothing"
        )
    return program


def run(program: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return the outputs of a program as float32."""
    with torch.inference_mode():
        made = program(*inputs)
    parts = made if isinstance(made, tuple) else (made,)
    return tuple(part.to(torch.float32) for part in parts)


def _outputs(path: Path, program: Any, rows: Inputs) -> tuple[Tensor, ...]:
    """Run a program on one, two, three and all rows; return its outputs for all."""
    ran: list[int] = []
    for count in (2, 1, 3, ROWS):
        try:
            with torch.inference_mode():
                made = program(*(one[:count] for one in rows))
        except Exception as error:  # a program is code, and can raise anything
            why = _last_line(error)
            if ran:
                raise ArtifactError(
                    f"{path}: it runs on {ran[-1]} rows and not on {count}, as if the number of "
                    f"rows had been built in when it was traced: {why}"
                ) from None
            raise ArtifactError(
                f"{path}: it does not run on two rows of {_shown(rows)}: {why}"
            ) from None
        _check_outputs(path, made, count)
        ran.append(count)
    return run(program, *rows)


def _shown(rows: Inputs) -> str:
    """Return what a program is called with, like `12 float32 features and 96 × 96 × 3 uint8`."""
    shown = []
    for one in rows:
        dtype, shape = str(one.dtype).removeprefix("torch."), one.shape[1:]
        plain = f"{shape[0]} {dtype} features" if len(shape) == 1 else ""
        shown.append(plain or f"{' × '.join(map(str, shape))} {dtype}")
    return " and ".join(shown)


def _random(leaf: Leaf, source: np.random.RandomState) -> Tensor:
    """Return `ROWS` random rows of a raster, within its bounds."""
    low, high = (
        np.reshape(one, leaf.space.shape if np.ndim(one) else ()) for one in leaf.space.limits()
    )
    values = source.uniform(size=(ROWS, *leaf.space.shape))
    if leaf.space.element.floating:
        low, high = np.clip(low, -1e3, 1e3), np.clip(high, -1e3, 1e3)
        values = low + values * (high - low)
    else:
        values = np.floor(low + values * (high - low + 1.0)).clip(low, high)
    return torch.from_numpy(values.astype(leaf.space.dtype))


def _last_line(error: Exception) -> str:
    """Return the reason in an error of TorchScript, which begins with a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return one_line(lines[-1] if lines else type(error).__name__)


def _check_outputs(path: Path, made: Any, rows: int) -> None:
    parts = made if isinstance(made, tuple) else (made,)
    if len(parts) not in (1, 2) or not all(isinstance(part, Tensor) for part in parts):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise ArtifactError(
            f"{path}: it gives {kinds}: it must give one tensor (the action's mean, or logits), or "
            "a tuple of two, a mean and a standard deviation"
        )
    for part in parts:
        if not part.is_floating_point():
            raise ArtifactError(
                f"{path}: it gives {part.dtype}: it must give the mean of an action, or the logits "
                "of a discrete one, not the action that was chosen"
            )
    if parts[0].ndim != 2 or len(parts[0]) != rows:
        raise ArtifactError(
            f"{path}: for a batch of {rows} it gives the shape {tuple(parts[0].shape)}, and not "
            f"({rows}, actions)"
        )


def _check_repeats(path: Path, program: Any, rows: Inputs, parts: tuple[Tensor, ...]) -> None:
    if not _close(parts, run(program, *rows)):
        raise ArtifactError(
            f"{path}: it gives another action for the same observation each time, as with Dropout "
            f"in training mode, or an action that is drawn: {_EVAL}, and return the mean"
        )
    each = (run(program, *(one[None] for one in row)) for row in zip(*rows, strict=True))
    alone = tuple(map(torch.cat, zip(*each, strict=True)))
    if not _close(parts, alone):
        raise ArtifactError(
            f"{path}: its action for an observation depends on the others in the batch, as with "
            f"BatchNorm in training mode: {_EVAL}"
        )


def _close(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    """Whether outputs differ by no more than rounding could make them."""
    pairs = zip(first, second, strict=True)
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True) for a, b in pairs)


def _check_std(path: Path, parts: tuple[Tensor, ...], asked: bool) -> None:
    mean, std = parts
    why = None
    if mean.shape != std.shape:
        why = f"has the shape {tuple(std.shape)}, the action {tuple(mean.shape)}"
    elif not bool((std > 0).all()):
        why = f"is {float(std.min()):.2g} for some observation, so it is no standard deviation"
    elif mean.shape[1] == 1 and not asked:
        why = "may be a standard deviation, or a value"
    if why is not None:
        raise ArtifactError(
            f"{path}: its second output {why}: say what it is with --second-output: std, log-std "
            "(its logarithm), or ignore (something else, as the value in (action, value))"
        )
