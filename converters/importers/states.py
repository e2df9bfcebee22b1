"""Whether a network takes, gives and uses its state as the user declared it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from converters.artifact.card import ArtifactError
from converters.importers.declared import Declared
from policy_spec.dtypes import DTYPES
from policy_spec.signature import StateLeaf


def drawn(leaf: StateLeaf, source: np.random.RandomState, rows: int) -> Tensor:
    """Return so many random rows of a part of the state: small numbers, or from 0 to 3."""
    size = (rows, *leaf.shape)
    floats = DTYPES[leaf.dtype].floating
    values = source.normal(size=size) if floats else source.randint(0, 4, size)
    return torch.from_numpy(values.astype(leaf.dtype))


def check_next(path: Path, after: Sequence[Tensor], state: Sequence[StateLeaf], rows: int) -> None:
    """Raise ArtifactError for parts of a next state, of so many rows, that are not as declared."""
    found = [(str(one.dtype).removeprefix("torch."), tuple(one.shape)) for one in after]
    wanted = [(leaf.dtype, (rows, *leaf.shape)) for leaf in state]
    for leaf, one, right in zip(state, found, wanted, strict=True):
        if one != right:
            told = ""
            if sorted(found) == sorted(wanted):
                told = ": give the state in the order in which it is declared"
            elif one[1] == (*leaf.shape[:1], rows, *leaf.shape[1:]):
                told = ": the rows come first: transpose(0, 1) what a layer of torch gives"
            raise ArtifactError(
                f"{path}: it gives the next {leaf.name} as {one[0]} of shape {one[1]}, and by its "
                f"state: it is {right[0]} of {right[1]}{told}"
            )


def check_order(path: Path, names: Sequence[str], state: Sequence[StateLeaf], first: int) -> None:
    """Raise ArtifactError where a program's inputs, which have names, are not as declared.

    The state must begin at the input `first`, in its order.
    """
    wanted = [leaf.name for leaf in state]
    if not state or list(names[first:]) == wanted:
        return
    shown = ", ".join(names)
    if len(names) != first + len(state):
        raise ArtifactError(
            f"{path}: it takes {shown or 'nothing'}, and it must take {first} of the observation "
            f"and then its state: {', '.join(wanted)}"
        )
    for place, name in enumerate(wanted, first):
        if name in names and names[place] != name:
            raise ArtifactError(
                f"{path}: it takes {shown}, and the state is declared as {', '.join(wanted)}: "
                "declare it in the order of these"
            )


def check_effect(
    run: Callable[..., tuple[Tensor, ...]],
    rows: Sequence[Tensor],
    whole: tuple[Tensor, ...],
    declared: Declared,
) -> None:
    """Raise ArtifactError for a part of the state that has no effect, or that never changes."""
    begin = len(rows) - len(declared.state)
    empty = (*rows[:begin], *map(torch.zeros_like, rows[begin:]))
    first = run(*empty)
    for place, leaf in enumerate(declared.state, begin):
        changed = run(*rows[:place], empty[place], *rows[place + 1 :])
        if all(map(torch.equal, changed, whole)):
            raise ArtifactError(
                f"{declared.source}: its {leaf.name} has no effect on what it gives: leave it out "
                "of state:, or compute with it"
            )
        after = place - len(rows)
        kept = (whole[after], rows[place]), (first[after], empty[place])
        if all(torch.equal(made, given.to(torch.float32)) for made, given in kept):
            raise ArtifactError(
                f"{declared.source}: it gives the next {leaf.name} as it was, always: give the new "
                "one, or leave it out of state:"
            )
