"""A TorchScript program of a policy → artifact."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from converters.artifact import artifact
from converters.artifact.card import ArtifactError
from converters.artifact.observations import Rows
from converters.importers import files, interface, programs, writer
from converters.importers.interface import Options
from policy_spec import checks
from policy_spec.checks import SpecError
from policy_spec.control import RANGES
from policy_spec.graph import choices, feature_width, features_width
from policy_spec.leaves import leaves
from policy_spec.signature import Signature
from policy_spec.spaces import Box, Discrete, LeafSpace, MultiBinary, MultiDiscrete, Space, uniform
from triton_backend.preprocessing import MAX_FEATURES

SPEC = ("observation_space", "action_space", "control", "repeat", "distribution")
"""The card's fields that a specification may have."""


def import_torchscript(
    program: Path,
    version: str,
    artifacts: Path,
    *,
    fields: Sequence[str] | None = None,
    spec: Mapping[str, Any] | None = None,
    squash: str = "clip",
    second_output: str | None = None,
    preprocessor: Path | None = None,
    **options: Unpack[Options],
) -> Path:
    """Write the artifact of a TorchScript program and return its folder.

    The program takes float32 features, shape (n, features): the observation, flat, after
    `preprocessor` (a pickle). Then it takes each raster as it is, like uint8 (n, 96, 96, 3); and
    rasters alone where nothing else is in an observation. It returns the action's mean, shape
    (n, actions), or mean and standard deviation, or the logits of a discrete action. `fields` names
    the features, see `interface.named`; instead of it `spec` has fields of the card. Without `spec`
    the action is what `layout`, `table` or `axes` is for, or else a Box without bounds. A Box is
    clipped to its bounds, or squashed to them by tanh. `second_output` is `std`, `log-std`, or
    `ignore`. The artifact's actions are compared with the program's own. Raises ArtifactError for a
    program that can't be a policy's, for another kind of file, and for a version that exists.
    """
    data = files.read(program, "torchscript")
    told = None if spec is None else _signature(program, spec, fields, options)
    observation = _observation(program, fields, options) if told is None else told.observation_space
    features = features_width(observation)
    rasters = [leaf for leaf in leaves(observation) if leaf.raster]
    if features > MAX_FEATURES:
        raise ArtifactError(f"{program}: {features} features are more than {MAX_FEATURES}")
    data, width, has_std = programs.read(program, data, features, rasters, second_output)
    action = _action(program, width, options) if told is None else told.action_space
    if (expected := feature_width(action)) != width:
        raise ArtifactError(
            f"{program}: it gives {width} numbers for each row, and the action needs {expected}"
        )
    distribution = {"std": "parameter" if has_std else "none", "squash": squash}
    if not isinstance(action, Box):
        if has_std or squash == "tanh":
            raise ArtifactError(
                f"{program}: a standard deviation, and --squash tanh, are for an action that is a "
                f"Box: for a {type(action).__name__} the program must give logits alone"
            )
        distribution = {} if told is None or told.noise != "none" else {"noise": "none"}
    if told is None:
        card = interface.card_fields(program, observation, action, options)
    else:
        card = told.to_data()
    opened = artifact.open_program(data)

    def choose(rows: Rows, features: NDArray[np.float32]) -> NDArray[Any]:
        found = zip(leaves(observation), rows, strict=True)
        given = [features] if features.shape[1] else []
        given += [values for leaf, values in found if leaf.raster]
        made = programs.run(opened, *map(torch.from_numpy, given))[0]
        return _choose(action, squash, made.numpy())

    return writer.write(
        artifacts / version,
        program,
        data,
        choose,
        "the program's own",
        options,
        kind="torchscript",
        preprocessor=preprocessor,
        **card | {"model_type": "torchscript", "distribution": distribution},
    )


def _signature(
    source: Path, spec: Mapping[str, Any], fields: Sequence[str] | None, options: Options
) -> Signature:
    """Return the signature that a specification declares, if nothing else says it again."""
    flags = (*interface.MAPPINGS, "scale", "repeat")
    given = [f"--{name}" for name in flags if options.get(name) is not None]
    given += [] if fields is None else ["--fields"]
    if given:
        raise ArtifactError(f"--spec: it says what {', '.join(given)} would: give one of them")
    try:
        told = checks.fields(spec, "--spec", SPEC[:2], SPEC[2:])
        checks.fields(told.get("distribution", {}), "--spec: distribution", (), ("noise",))
        return Signature.from_card(told)
    except SpecError as error:
        raise ArtifactError(f"{source}: {error}") from None


def _observation(source: Path, fields: Sequence[str] | None, options: Options) -> Space:
    if fields is None:
        raise ArtifactError(
            f"{source}: a program does not tell what an observation is: say it with --fields, e.g. "
            "--fields speed,steering,sensors:5 or --fields vector:12, or with --spec FILE.yaml"
        )
    total = sum(width or 1 for _, width in interface.parse_fields(fields))
    vector = Box("float32", (total,), -math.inf, math.inf)
    return interface.named(source, vector, fields, interface.teller(options))


def _action(source: Path, width: int, options: Options) -> LeafSpace:
    """Return the action space that the control is for, or a Box of `width` without bounds."""
    layout, table, axes = options.get("layout"), options.get("table"), options.get("axes")
    if layout is not None:
        bounds = [RANGES.get(name, (-1.0, 1.0)) for name in layout]
        low, high = map(uniform, zip(*bounds, strict=True))
        return Box("float32", (len(layout),), low, high)
    if table is None and axes is None:
        return Box("float32", (width,), -math.inf, math.inf)
    if table is not None:
        if not isinstance(table, list) or not table:
            raise ArtifactError(f"{source}: --table: must be a list, one control for each value")
        return Discrete(len(table))
    branches = [axes] if isinstance(axes, Mapping) else axes
    if isinstance(branches, list) and all(isinstance(one, Mapping) for one in branches):
        parts = [part for one in branches for part in one.values()]
        if parts and all(isinstance(part, list) and part for part in parts):
            return MultiDiscrete(tuple(map(len, parts)), (0,) * len(parts))
    raise ArtifactError(f"{source}: --axes: must be names with values, like steer: [-1, 0, 1]")


def _choose(space: LeafSpace, squash: str, output: NDArray[np.float32]) -> NDArray[Any]:
    """Return the deterministic action of a mean, or of logits."""
    if isinstance(space, Box):
        low, high = (np.array(side, np.float32).ravel() for side in (space.low, space.high))
        if squash == "tanh":
            return low + np.float32(0.5) * (np.tanh(output) + np.float32(1)) * (high - low)
        return output.clip(low, high)
    if isinstance(space, MultiBinary):
        return (output > 0).astype(np.int8)
    values = choices(space) or []
    ends = np.cumsum([len(one) for one in values])[:-1]
    return np.stack(
        [
            part.argmax(axis=1) + one.start
            for part, one in zip(np.split(output, ends, axis=1), values, strict=True)
        ],
        axis=1,
    )
