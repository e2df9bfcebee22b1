"""Policies with a memory drive: in the runtimes that serve them, and in a real Triton."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http

from converters.artifact import artifact
from converters.artifact.artifact import Artifact
from converters.artifact.observations import Rows
from converters.export import parity
from converters.export.export import export
from converters.export.formats import FORMATS, Program, chosen
from converters.repository import configs
from policy_spec.leaves import leaves
from policy_spec.noise import NoiseSource
from policy_spec.signature import EPISODE_START
from tests.converters.test_random_spaces import _packed, _shaped, infer
from tests.triton import running_triton

STEPS, DRAWS = 300, 20_000

Array = np.ndarray[Any, Any]
Step = Callable[..., tuple[Array, ...]]


def starts(steps: int = STEPS) -> Array:
    """Whether an episode starts with each step: the first, and about each 15th."""
    found = np.random.default_rng(5).uniform(size=steps) < 1 / 15
    found[0] = True
    return found


def opened(source: Artifact, folder: Path) -> dict[str, Step]:
    """Write a policy in each format that it has; return these in their runtimes."""
    folder.mkdir(parents=True, exist_ok=True)
    program = Program.trace(source.policy, source.card.signature, 32)
    found: dict[str, Step] = {}
    for name in chosen(source.card, None):
        form = FORMATS[name]
        form.write(program, folder / form.file)
        found[name] = form.open(folder / form.file)
    return found


def drive(step: Step, source: Artifact, rows: Rows, start: Array) -> Array:
    """Drive over observations; return the policy's own actions, (steps, elements)."""
    state = source.card.signature.state
    given = parity.inputs(source, rows)
    split = len(given) - len(state)
    given = *given[: split - 1], start[:, None], *given[split:]
    begin = 0 if given[0].shape[1] else 1
    _, made = parity.drive(lambda *one: step(*one[begin:]), given, len(state))
    return made[len(made) - len(state) - 1]


def samples(step: Step, source: Artifact, rows: Rows, start: Array) -> Array:
    """Return many samples for the last observation, in the state that the drive before it left."""
    signature = source.card.signature
    count, leaves_ = len(signature.state), parity.inputs(source, rows)
    split = len(leaves_) - count
    given = *leaves_[: split - 1], start[:, None], *leaves_[split:]
    begin = 0 if given[0].shape[1] else 1
    (_, _, *others), _ = parity.drive(lambda *one: step(*one[begin:]), given, count)
    seeds = np.arange(DRAWS)
    width = max(signature.noise_width, 1)
    noise = NoiseSource(signature.noise).draw(np.zeros(DRAWS, bool), seeds, seeds * 0, width)
    repeated = [np.repeat(one[-1:], DRAWS, axis=0) for one in (given[0], *others)]
    made = step(*repeated[begin:1], noise, *repeated[1:])
    return made[len(made) - count - 1]


@contextmanager
def triton(folders: list[Path], target: Path) -> Iterator[Any]:
    """Export artifacts and serve them by a real Triton; give a client of it."""
    export(folders, target)
    models = [path.name for path in target.iterdir() if "torchscript" not in path.name]
    models.remove(configs.ALIAS)
    with running_triton(target, models) as (http, _):  # noqa: SIM117
        with tritonclient.http.InferenceServerClient(f"127.0.0.1:{http}") as client:
            yield client


def in_triton(client: Any, folder: Path, rows: Rows, start: Array) -> dict[str, Array]:
    """Drive a version's ensemble and its fused model, one row a call; return their actions."""
    signature = artifact.load(folder).card.signature
    space, own = signature.observation_space, "action"
    if signature.has_policy_action:
        own = "policy_action"
    found = {}
    for model, shaped, key in (
        ("carla_policy", _shaped, {"deterministic": np.array([[True]]), "seed": np.array([[0]])}),
        ("carla_policy_fused", _packed, {"noise_key": np.array([[-1, 0]])}),
    ):
        # Whatever it was: an episode starts with the first row.
        state = {one.tensor: np.ones((1, *one.shape), one.dtype) for one in signature.state}
        actions = []
        for index, first in enumerate(start):
            seen = {
                leaf.name: values[index : index + 1]
                for leaf, values in zip(leaves(space), rows, strict=True)
            }
            row = {"row": np.array([[0]])} if "deterministic" in key else {}
            given = shaped(space, seen) | key | row | {EPISODE_START: np.array([[first]])} | state
            made = infer(tritonclient.http, client, f"{model}-{folder.name}", given)
            actions.append(made.as_numpy(own)[0])
            state = {one.tensor: made.as_numpy(one.next_tensor) for one in signature.state}
        found[model] = np.array(actions)
    return found
