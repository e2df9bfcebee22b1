"""A TorchScript program of a policy → artifact."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from converters.artifact import artifact
from converters.artifact.observations import Rows
from converters.artifact.policy import zeros_of
from converters.importers import files, programs, states, writer
from converters.importers.declared import Declared, Said
from policy_spec.leaves import leaves


def import_torchscript(
    program: Path,
    version: str,
    artifacts: Path,
    *,
    preprocessor: Path | None = None,
    **said: Unpack[Said],
) -> Path:
    """Write the artifact of a TorchScript program and return its folder.

    The program takes float32 features, shape (n, features): the observation, flat, after
    `preprocessor` (a pickle). Then it takes each raster as it is, like uint8 (n, 96, 96, 3); and
    rasters alone where nothing else is in an observation. It returns what the distribution needs:
    an action's mean, shape (n, actions), or mean and standard deviation, or alpha and beta, or the
    logits of a discrete action. Without `spec` and `env` the action is what `layout`, `table` or
    `axes` is for, or else a Box without bounds. A `state` of `spec` follows both what it takes and
    what it gives, each part with the rows first. The artifact's actions are compared with the
    program's own. Raises ArtifactError for a program that can't be a policy's, for another kind of
    file, and for a version that exists.
    """
    data = files.read(program, "torchscript")
    declared = Declared.of(program, said)
    names = programs.open_program(program, data).forward.schema.arguments[1:]
    first = len(declared.taken) - len(declared.state)
    states.check_order(program, [one.name for one in names], declared.state, first)
    data, width, outputs = programs.read(data, declared)
    opened = artifact.open_program(data)
    whose = "the program's own"
    return write(artifacts / version, declared, data, width, outputs, opened, whose, preprocessor)


def write(
    folder: Path,
    declared: Declared,
    data: bytes,
    width: int,
    outputs: int,
    own: Callable[..., Any],
    whose: str,
    preprocessor: Path | None,
    kind: str = "torchscript",
) -> Path:
    """Write the artifact of the program `data`, which `programs.read` gave with what follows.

    `own` is the policy itself, to compare with: it takes and gives what the program does. An error
    calls its actions `whose`. `kind` is the program's in the card.
    """
    space, name = declared.name(width, outputs)

    state: list[Tensor] = []

    def predict(rows: Rows, features: NDArray[np.float32], start: bool) -> Sequence[NDArray[Any]]:
        if start:
            state[:] = zeros_of(declared.taken, 1)[len(declared.taken) - len(declared.state) :]
        found = zip(leaves(declared.observation), rows, strict=True)
        given = [features] if features.shape[1] else []
        given += [values for leaf, values in found if leaf.raster]
        with torch.inference_mode():
            made = programs.parts(own(*map(torch.from_numpy, given), *state))
        state[:] = made[len(made) - len(state) :]
        action = declared.choose(space, made[0].to(torch.float32).numpy())
        return action, *(one.numpy() for one in state)

    return writer.write(
        folder,
        declared.source,
        data,
        predict,
        whose,
        declared.options,
        kind=kind,
        preprocessor=preprocessor,
        **declared.card(space, name) | {"model_type": kind},
    )
