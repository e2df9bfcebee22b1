"""The weights in a checkpoint of PyTorch: found in it, and put into a module."""

import argparse
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from converters.artifact.card import ArtifactError
from converters.importers import files

SHOWN = 4
"""Names of weights that an error lists."""

_FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")
_SCALAR = np.core.multiarray.scalar  # type: ignore[attr-defined]
_PLAIN: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(kind)) for kind in "?bhilqBHILQefd"},
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
"""What is data, too, and lies beside the weights: arguments, and numbers of numpy."""


MAIN = ("model", "policy", "actor", "agent", "state_dict", "model_state_dict")
"""What the weights of a policy are mostly called, beside others."""

_NORMALISER = re.compile(r"(obs\w*_(rms|norm)|normali[sz]er)\w*", re.IGNORECASE)


def load(
    module: nn.Module,
    path: Path,
    key: str | None,
    tell: Callable[[str], object],
    normalised: bool = False,
) -> None:
    """Put the weights of a checkpoint into a module.

    A checkpoint is a state dict, or has one somewhere in its dicts, lists and tuples; `key` is its
    name there, which is only needed where several fit. What all names of the module's weights begin
    with (`module.`, `actor.`) does not matter, and `_orig_mod.`, which torch.compile writes, is
    left away. The file is read as data. `tell` is told which weights of several parts were taken,
    and of a normaliser beside them, unless the policy is `normalised`. Raises ArtifactError for a
    file without weights, with others, and where others may be meant.
    """
    own = {_plain(name): tensor for name, tensor in module.state_dict().items()}
    if not own:
        raise ArtifactError(f"{path}: the module has no weights to load: leave --checkpoint away")
    read = dict(_leaves(_read(path)))
    held = {_plain(name): one for name, one in read.items() if isinstance(one, Tensor)}
    if not held:
        raise ArtifactError(
            f"{path}: no weights in it: save them with torch.save(module.state_dict(), FILE)"
        )
    groups = _groups(held, own, key)
    fitting = [name for name, group in groups.items() if not _faults(group, own)]
    if not fitting:
        _refuse(path, groups, own, held, key)
    if len(fitting) > 1:
        shown = ", ".join(name.rstrip(".") or "(all of it)" for name in fitting)
        raise ArtifactError(f"{path}: several weights in it fit: say which with --key: {shown}")
    taken = fitting[0]
    if key is None or taken != f"{key}.":
        _check_alone(path, taken, groups, own)
    group = groups[taken]
    if taken and len(group) < len(read):
        tell(f"{path}: the weights are those named {taken.rstrip('.')}")
    others = [name for name in map(_plain, read) if not (name.startswith(taken) and name in held)]
    beside = _normaliser(others)
    if beside is not None and not normalised:
        tell(
            f"{path}: it holds {beside}, which is not in the policy: give it with --preprocessor, "
            "or put it into the module"
        )
    module.load_state_dict({name: group[_plain(name)] for name in module.state_dict()})


def _read(path: Path) -> Any:
    data = files.read(path, "state dict")
    try:
        with torch.serialization.safe_globals(_PLAIN):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file can provoke in torch
        found = _FORBIDDEN.search(str(error))
        why = "it is damaged, or something else"
        if found is not None:
            why = f"it holds objects of {found[1]}, whose code would run"
        raise ArtifactError(
            f"{path}: no checkpoint that can be read as data: {why}: save the weights alone with "
            "torch.save(module.state_dict(), FILE)"
        ) from None


def _plain(name: str) -> str:
    return name.replace("_orig_mod.", "")


def _leaves(held: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Return what a checkpoint holds, with the keys, joined by dots."""
    if isinstance(held, Mapping | list | tuple):
        parts = held.items() if isinstance(held, Mapping) else enumerate(held)
        for key, part in parts:
            yield from _leaves(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, held


def _check_alone(
    path: Path, taken: str, groups: Mapping[str, dict[str, Tensor]], own: Mapping[str, Tensor]
) -> None:
    """Raise ArtifactError where others than the weights that fit may be meant.

    They have the names of a policy's, or most weights of the module, and then some too many.
    """
    for begin, group in groups.items():
        last = begin.rstrip(".").rpartition(".")[2]
        same = [name for name in own if name in group and group[name].shape == own[name].shape]
        faults = _faults(group, own)
        near = 2 * len(same) >= len(own) and not any(one.startswith(_SHAPES) for one in faults)
        main = last in MAIN and taken.rstrip(".").rpartition(".")[2] not in MAIN
        if begin != taken and (near or main):
            name = begin.rstrip(".") or "all of it"
            raise ArtifactError(
                f"{path}: the weights {taken.rstrip('.')} in it fit, and {name}, which may be "
                f"meant, does not ({'; '.join(faults)}): say which with --key, or give its module"
            )


def _normaliser(names: Iterable[str]) -> str | None:
    """Return the name of what looks like a normaliser of observations, or None."""
    known = list(names)
    for name in known:
        parts = name.split(".")
        for index, part in enumerate(parts):
            if _NORMALISER.fullmatch(part):
                return ".".join(parts[: index + 1])
        begin = name.removesuffix("running_mean")
        if begin != name and f"{begin}count" in known:
            return name
    return None


def _groups(
    held: Mapping[str, Tensor], own: Mapping[str, Tensor], key: str | None
) -> dict[str, dict[str, Tensor]]:
    """Return what may be the module's weights: all tensors whose names have one beginning.

    It is a beginning before the name of one of the module's own weights.
    """
    begins = {name[: -len(one)] for name in held for one in own if name.endswith(one)}
    groups = {}
    for begin in sorted(begins):
        if begin and not begin.endswith("."):
            continue
        if key is None or begin.startswith(f"{key}."):
            groups[begin] = {
                name.removeprefix(begin): one
                for name, one in held.items()
                if name.startswith(begin)
            }
    return groups


_SHAPES = "of another shape"


def _faults(group: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Return why weights are not the module's, an entry for each kind of fault."""
    both = [name for name in own if name in group]
    sizes = [
        f"{name} {_shape(group[name])} instead of {_shape(own[name])}"
        for name in both
        if group[name].shape != own[name].shape
    ]
    lists = {
        "missing": [name for name in own if name not in group],
        "too many": [name for name in group if name not in own],
        _SHAPES: sizes,
        "whole numbers in place of floats": [
            name
            for name in both
            if own[name].is_floating_point() and not group[name].is_floating_point()
        ],
    }
    return [f"{what}: {_shown(names)}" for what, names in lists.items() if names]


def _shape(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape)) or "one number"


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _refuse(
    path: Path,
    groups: Mapping[str, dict[str, Tensor]],
    own: Mapping[str, Tensor],
    held: Mapping[str, Tensor],
    key: str | None,
) -> None:
    if not groups:
        where = "" if key is None else f" under --key {key}"
        raise ArtifactError(
            f"{path}: it has no weights of this module{where}: it holds {_shown(list(held))}, and "
            f"the module {_shown(list(own))}"
        )

    def common(begin: str) -> int:
        return len(groups[begin].keys() & own.keys()) - len(groups[begin].keys() - own.keys())

    best = max(groups, key=common)
    of = f" of {best.rstrip('.')}" if best else ""
    faults = "; ".join(_faults(groups[best], own))
    raise ArtifactError(f"{path}: its weights{of} are not this module's: {faults}")
