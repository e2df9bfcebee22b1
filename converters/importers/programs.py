"""TorchScript programs of policies: made, opened and checked."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from converters.artifact import artifact
from converters.artifact.card import ArtifactError
from converters.artifact.policy import zeros_of
from converters.errors import one_line
from converters.importers import outputs, states
from converters.importers.declared import Declared
from policy_spec.graph import Input, feature_width
from policy_spec.leaves import Leaf
from policy_spec.signature import StateLeaf
from policy_spec.spaces import Box

ROWS = 16
"""Rows of random features and rasters that a program is checked on."""

Inputs = tuple[Tensor, ...]

_EVAL = "call eval() on the policy before it is traced"


def trace(policy: nn.Module, taken: Sequence[Input]) -> bytes:
    """Return the TorchScript file of a policy that takes what `program_inputs` tells."""
    given = tuple(zeros_of(taken, 2))
    # Whoever writes an artifact compares it; the errors of torch's own comparison are long.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a trace would miss
        traced = torch.jit.trace(policy.eval(), given, check_trace=False)  # type: ignore[no-untyped-call]
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    return buffer.getvalue()


def open_program(path: Path, data: bytes) -> Any:
    """Open a TorchScript program; raise ArtifactError if it can't be a policy's."""
    try:
        program = artifact.open_program(data)
    except Exception as error:  # whatever a damaged file can provoke in torch
        why = one_line(str(error).partition(". This is an internal")[0])
        raise ArtifactError(
            f"{path}: no TorchScript program ({why}): write it with torch.jit.save(program, FILE)"
        ) from None
    if not hasattr(program, "forward"):
        raise ArtifactError(f"{path}: it has no method forward, which gives an action")
    graph = program.inlined_graph
    kept = re.search(r'prim::SetAttr\[name="(.*?)"\]', str(graph))
    changed = kept[1] if kept else _changed(graph)
    if changed is not None:
        raise ArtifactError(
            f"{path}: it changes its attribute {changed} whenever it is called: compute with a "
            "copy (clone), or take what it remembers as an input and return the next one, declared "
            "as `state:` in --spec"
        )
    return program


def _changed(block: Any) -> str | None:
    """Return which attribute of a program a block of it changes in place, or None."""
    for node in block.nodes():
        target = _aliased(node, written=True)
        while target is not None and (of := target.node()).kind() != "prim::GetAttr":
            target = _aliased(of, written=None)
        if target is not None and of.s("name") != "num_batches_tracked":  # see `_EVAL`
            return str(of.s("name"))
        blocks = list(node.blocks())
        for inner in blocks[1:] if node.kind() == "prim::If" and _trains(node) else blocks:
            if (found := _changed(inner)) is not None:
                return found
    return None


def _trains(branch: Any) -> bool:
    """Whether a branch is `if self.training`, or `if self.training and …`."""
    of = next(branch.inputs()).node()
    if of.kind() == "prim::If":
        return _trains(of)
    return bool(of.kind() == "prim::GetAttr" and of.s("name") == "training")


def _aliased(node: Any, written: bool | None) -> Any:
    """Return the first input that an operator's output is a view of, or None.

    With `written` it is the one that the operator changes.
    """
    if "(no schema)" in (schema := node.schema()):
        return None
    arguments = torch._C.parse_schema(schema).arguments
    for argument, given in zip(arguments, node.inputs(), strict=False):
        alias = argument.alias_info
        if alias is not None and (alias.is_write or not written):
            return given
    return None


def read(
    data: bytes,
    declared: Declared,
    opened: Callable[[Path, bytes], Any] = open_program,
    traced: Callable[..., bytes] = trace,
) -> tuple[bytes, int, int]:
    """Check a program; return its bytes, the width of its first output, and how many it has.

    `opened` and `traced` are for another kind of program than TorchScript. It is called as `trace`
    says, with random numbers. The program of the returned bytes gives what
    an artifact's does: a second output that `declared` names is made a standard deviation, or is
    left away; of alpha and beta the action is made. The outputs that are counted are those of the
    action, without the state.
    Raises ArtifactError for a program that can't be a policy's, one whose second output is no
    standard deviation where nobody said what it is, and one whose state is not as declared.
    """
    path, second = declared.source, declared.second
    program = opened(path, data)
    source = np.random.RandomState(0)
    normal = torch.from_numpy(source.normal(size=(ROWS, declared.features))).to(torch.float32)
    rows = ((normal,) if declared.features else ()) + tuple(
        _random(leaf, source) for leaf in declared.rasters
    )
    rows += tuple(states.drawn(leaf, source, ROWS) for leaf in declared.state)
    whole = _outputs(program, rows, declared)
    parts = whole[: len(whole) - len(declared.state)]
    if second is not None and len(parts) != 2:
        flag = "--second-output" if "second_output" in declared.said else "--distribution"
        raise ArtifactError(f"{path}: {flag}: it has one output alone, and {second} needs two")
    if second is not None:
        if second.startswith("beta"):
            _check_beta(path, parts, declared)
        elif second != "ignore" and parts[1].shape[-1:] != parts[0].shape[-1:]:
            _check_std(path, parts, asked=True)
        if second != "std" or parts[1].shape != parts[0].shape:
            data = traced(outputs.served(program, declared), declared.taken)
            program = opened(path, data)
            whole = _outputs(program, rows, declared)
            parts = whole[: len(whole) - len(declared.state)]
    if len(parts) == 2 and (declared.space is None or isinstance(declared.space, Box)):
        _check_std(path, parts, asked=second is not None)
    _check_repeats(path, program, rows, whole)
    states.check_effect(partial(run, program), rows, whole, declared)
    return data, parts[0].shape[1], len(parts)


def run(program: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return the outputs of a program as float32."""
    with torch.inference_mode():
        return tuple(part.to(torch.float32) for part in parts(program(*inputs)))


def parts(made: Any) -> tuple[Any, ...]:
    """Return what a program gave as a tuple."""
    return made if isinstance(made, tuple) else (made,)


def _outputs(program: Any, rows: Inputs, declared: Declared) -> tuple[Tensor, ...]:
    """Run a program on one, two, three and all rows; return its outputs for all."""
    path, ran = declared.source, list[int]()
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
                f"{path}: it does not run on two rows of {shown(declared.taken)}: {why}"
            ) from None
        check_outputs(path, made, count, declared.state)
        ran.append(count)
    return run(program, *rows)


def shown(taken: Sequence[Input]) -> str:
    """Return what a program is called with, like `12 float32 features and 96 × 96 × 3 uint8`."""
    shown = []
    for one in taken:
        name = {"features": " features"}.get(one.name, "")
        name = f" of {one.name}" if one.name.startswith("state.") else name
        shown.append(f"{' × '.join(map(str, one.shape))} {one.dtype}{name}")
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


def check_outputs(path: Path, made: Any, rows: int, state: Sequence[StateLeaf] = ()) -> None:
    """Raise ArtifactError for what a program gives for so many rows.

    It must be an action's one or two outputs, and then each part of the next `state`.
    """
    given = parts(made)
    own = len(given) - len(state)
    if own not in (1, 2) or not all(isinstance(part, Tensor) for part in given):
        kinds = ", ".join(type(part).__name__ for part in given)
        behind = f"; behind that the next {', '.join(one.name for one in state)}" if state else ""
        raise ArtifactError(
            f"{path}: it gives {kinds}: it must give one tensor (the action's mean, or logits), or "
            f"a tuple of two, a mean and a standard deviation{behind}"
        )
    given, after = given[:own], given[own:]
    for part in given:
        if not part.is_floating_point():
            raise ArtifactError(
                f"{path}: it gives {part.dtype}: it must give the mean of an action, or the logits "
                "of a discrete one, not the action that was chosen"
            )
    if given[0].ndim != 2 or len(given[0]) != rows:
        raise ArtifactError(
            f"{path}: for a batch of {rows} it gives the shape {tuple(given[0].shape)}, and not "
            f"({rows}, actions)"
        )
    states.check_next(path, after, state, rows)


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


def _check_beta(path: Path, parts: tuple[Tensor, ...], declared: Declared) -> None:
    alpha, beta = parts
    width = feature_width(declared.space) if declared.space else None
    if alpha.shape != beta.shape or alpha.shape[1] != width:
        raise ArtifactError(
            f"{path}: --distribution beta: alpha and beta must have {width} numbers for each row, "
            f"as the action, and not the shapes {tuple(alpha.shape)} and {tuple(beta.shape)}"
        )
    if not bool(((alpha > 0) & (beta > 0)).all()):
        raise ArtifactError(
            f"{path}: --distribution beta: alpha or beta is {float(torch.cat(parts).min()):.2g}, "
            "and both must be positive: give what torch.distributions.Beta takes"
        )


def _check_std(path: Path, parts: tuple[Tensor, ...], asked: bool) -> None:
    mean, std = parts
    why = None
    if mean.shape != std.shape:
        why = f"has the shape {tuple(std.shape)}, the action {tuple(mean.shape)}"
    elif not bool((std > 0).all()):
        why = f"is {std.min().item():.2g} for some observation, so it is no standard deviation"
    elif not asked:
        why = "may be a standard deviation, its logarithm, or something else"
    if why is not None:
        raise ArtifactError(
            f"{path}: its second output {why}: say what it is with --second-output: std, log-std "
            "(its logarithm), or ignore (something else, as the value in (action, value))"
        )
