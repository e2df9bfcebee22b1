"""A policy trained with Stable-Baselines3 → artifact."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from converters.artifact import artifact
from converters.artifact.card import ArtifactError
from converters.artifact.observations import Rows
from converters.artifact.preprocessor import MASK
from converters.importers import (
    interface,
    programs,
    sb3_actor,
    sb3_classes,
    sb3_frames,
    sb3_images,
    sb3_normalisation,
    sb3_spaces,
    sb3_zip,
    user_code,
    writer,
)
from converters.importers.interface import Options
from converters.importers.sb3_actor import Actor
from converters.importers.sb3_frames import Frames, Order, Parts, Stacked, Stacks
from converters.importers.sb3_images import Images, Layout
from converters.importers.sb3_zip import SavedPolicy
from policy_spec.graph import feature_columns, program_inputs
from policy_spec.leaves import leaves
from policy_spec.spaces import Box, Dict, MultiBinary, Space


def import_sb3(
    policy: Path,
    version: str,
    artifacts: Path,
    *,
    vecnormalize: Path | Literal["none"] | None = None,
    fields: Sequence[str] | None = None,
    image_layout: Layout | None = None,
    frame_stack: int | None = None,
    channels_order: Order | None = None,
    trust: Collection[str] = (),
    **options: Unpack[Options],
) -> Path:
    """Write the artifact of a Stable-Baselines3 `.zip` and return its folder.

    It accepts `sb3_zip.ALGORITHMS` with their policies, or with classes of the modules in `trust`,
    whose code then runs. `vecnormalize` is the file of the statistics that the policy was trained
    with, or "none": it saw the observations as they are. `fields` names the elements of a flat
    vector, see `interface.named`. `image_layout` is how callers send images; without it they send
    the environment's layout, or the channels last where the zip does not tell it. `frame_stack` is
    how many frames VecFrameStack stacked, and `channels_order` what was said to it: callers send
    one frame, and the state has the earlier ones. That of RecurrentPPO has its LSTM's `h` and `c`.
    The mask of MaskablePPO is one more part of the observation, `action_mask`, 1 for what is
    allowed. The artifact's actions are compared with `model.predict(deterministic=True)`, and the
    standard deviation of its noise with the policy's own.

    Raises ArtifactError for another policy, for a flat vector without `fields`, and for a version
    that exists. It also raises it if `vecnormalize` is a file and the zip shows that the policy was
    trained without, or if `vecnormalize` is None and the zip does not show that.
    """
    for module in trust:
        if not user_code.NAME.fullmatch(module):
            raise ArtifactError(
                f"--trust {module!r} must be a module as Python imports it, like my_project.nets"
            )
    saved = sb3_zip.read(policy, trust)
    if channels_order is not None and frame_stack is None:
        raise ArtifactError("--channels-order: it is for --frame-stack: leave it away")
    tell = interface.teller(options)
    own_code = f"{policy}: its network can't be computed", sb3_classes.ADVICE
    try:
        images = sb3_images.find(saved, image_layout, tell, frame_stack or 1)
        actor = sb3_actor.actor_of(saved, images)
        frames = None
        if frame_stack is not None:
            frames = sb3_frames.find(images.space, frame_stack, channels_order)
            images = replace(images, space=frames.space)
        space = sb3_spaces.parsed(images.space)
    except ValueError as error:
        raise ArtifactError(f"{policy}: {error}") from None
    except AttributeError as error:  # a class of the user's own may lack what the library's has
        with user_code.running(*own_code):
            raise error
    whole = {sb3_spaces.key(leaf) for leaf in leaves(space) if leaf.raster} | set(images.orders)
    statistics = sb3_normalisation.check(policy, saved, vecnormalize, whole, frame_stack or 1)
    observation = _observation(policy, saved, images, frames, fields, tell)
    if actor.mask is not None:
        observation = _masked(policy, observation, sum(actor.mask.widths))
    seen = sb3_spaces.parts(images.space).values()
    if any(np.any(getattr(one, "start", 0)) for one in (saved.action_space, *seen)):
        tell("Stable-Baselines3 does not heed the start of a discrete space: its values begin at 0")
    action = interface.read_space(policy, sb3_spaces.card_form(saved.action_space), "action_space")
    program: Actor | Stacked = actor
    stacks = None
    if frames is not None:
        normalised = None
        if statistics is not None:
            normalised = sb3_frames.outside(statistics, frames, action)
        statistics = None if normalised is not None else statistics
        program, stacks = Stacked(actor, frames, normalised), Stacks(frames, normalised)
    with user_code.running(*own_code):
        model, card = _model(program, observation)

    state: Any = None

    def predict(rows: Rows, features: NDArray[np.float32], start: bool) -> Sequence[NDArray[Any]]:
        nonlocal state
        batch, after = _batch(space, rows, features), list[NDArray[Any]]()
        if stacks is not None:
            batch, after = stacks.step(batch, start)
        seen = {
            key: np.moveaxis(one, -1, 1) if key in images.transposed else one
            for key, one in batch.items()
        }
        more = {} if actor.mask is None else {"action_masks": rows[-1]}
        with user_code.running(*own_code):
            action, state = saved.policy.predict(
                seen.get(None, seen), state, np.array([start]), deterministic=True, **more
            )
        return action, *after, *(np.moveaxis(one, 1, 0) for one in state or ())

    def spread(*one: Any) -> Sequence[NDArray[Any]]:
        predict(*one)  # which leaves its distribution
        return (saved.network.action_dist.distribution.stddev.numpy(),)

    return writer.write(
        artifacts / version,
        policy,
        model,
        predict,
        "model.predict",
        options,
        kind=saved.algorithm.lower(),
        preprocessor=statistics,
        spread=spread if actor.output == "gaussian" else None,
        **interface.card_fields(policy, observation, action, options, program.state) | card,
    )


def _observation(
    path: Path,
    saved: SavedPolicy,
    images: Images,
    frames: Frames | None,
    fields: Sequence[str] | None,
    tell: Callable[[str], None],
) -> Space:
    """Return the observation space; the bounds of a Box that did not hold are left away."""
    own = images.space
    seen = saved.last_observation if saved.last_original is None else saved.last_original
    seen = seen if frames is None else frames.newest(seen)
    form, plain = sb3_spaces.card_form(own, seen), sb3_spaces.card_form(own)
    outside = form != plain
    for key, order in images.orders.items():
        part = form if key is None else form["subspaces"][key]
        part["description"] = f"image: {order}"
    space = interface.read_space(path, form, "observation_space")
    if outside:
        tell("the policy saw an observation outside of its own space, whose bounds are left away")
    if not (isinstance(own, spaces.Box) and len(own.shape) == 1):
        if fields is not None and tuple(fields) != (interface.VECTOR,):
            kind = type(space).__name__
            raise ArtifactError(
                f"{path}: --fields names the elements of a flat vector, and its observation is a "
                f"{kind}{' with names of its own' if kind == 'Dict' else ''}: leave --fields away"
            )
        return space
    assert isinstance(space, Box)
    if fields is None:
        raise ArtifactError(
            f"{path}: its observation is a vector of {space.size} numbers: say what they are with "
            "--fields, e.g. --fields speed,steering,sensors, or --fields vector to keep the list"
        )
    return interface.named(path, space, fields, tell)


def _masked(path: Path, observation: Space, choices: int) -> Space:
    """Return an observation space with the mask of `choices` as its last part."""
    found = observation.parts if isinstance(observation, Dict) else {"observation": observation}
    if MASK in found:
        raise ArtifactError(
            f"{path}: {MASK} is the name of the mask of MaskablePPO, and its observation has a "
            "part of that name: give the part another name"
        )
    mask = MultiBinary((choices,), description="1: the choice is allowed")
    return Dict((*found.items(), (MASK, mask)))


def _batch(space: Space, rows: Rows, features: NDArray[Any]) -> Parts:
    """Return the parts of observations: of a Box its features, which are normalised."""
    batch: dict[str | None, NDArray[Any]] = {}
    places = feature_columns(space)
    for leaf, seen in zip(leaves(space), rows, strict=False):  # a mask may follow
        if isinstance(leaf.space, Box) and not leaf.raster:
            start, stop = places[leaf.path]
            seen = features[:, start:stop].reshape(-1, *leaf.space.shape)
        batch[sb3_spaces.key(leaf)] = seen
    return batch


def _model(program: Actor | Stacked, observation: Space) -> tuple[bytes, dict[str, Any]]:
    """Return the content of `model.pt`, and the card's fields for it."""
    actor = program.actor if isinstance(program, Stacked) else program
    plain = None if actor is not program else sb3_actor.perceptron(actor)
    if plain is None:
        model = programs.trace(program, program_inputs(observation, program.state))
        std = "parameter" if actor.output == "gaussian" else "none"
        card: dict[str, Any] = {"model_type": "torchscript"}
    else:
        architecture, std, state = plain
        model = artifact.state_dict_bytes(state)
        card = {"model_type": "pytorch", "architecture": architecture}
    if actor.squash is not None:
        card["distribution"] = {"std": std, "squash": actor.squash}
    elif actor.output == "q_values":
        card["distribution"] = {"noise": "none"}
    return model, card
