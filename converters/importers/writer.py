"""Write the artifact of an imported policy, and compare its actions with the policy's own."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from converters.artifact import artifact, pickles
from converters.artifact.artifact import Artifact
from converters.artifact.card import ArtifactError, ModelCard, first_fault
from converters.artifact.observations import EDGE, Rows, corners
from converters.artifact.policy import Policy
from converters.export import parity
from converters.export.truth import Truth, run
from converters.importers import columns, files, interface, user_code
from converters.importers.interface import Options
from policy_spec.leaves import leaves

Predict = Callable[[Rows, NDArray[np.float32], bool], Sequence[NDArray[Any]]]
"""One observation, for each leaf its values, (1, …), its features, (1, features), and whether an
episode starts with it → the policy's deterministic action in its own space, (1, …), and each part
of its next state, (1, …). A policy with a state remembers that since the last call."""

_SPREADS = 64
"""How many rows the standard deviations are compared of."""


def write(
    folder: Path,
    source: Path,
    model: bytes,
    predict: Predict,
    whose: str,
    options: Options,
    *,
    kind: str,
    preprocessor: Path | None,
    spread: Predict | None = None,
    **fields: Any,
) -> Path:
    """Write the artifact `folder` of the policy in the user's file `source`, and return the folder.

    `model` is the content of the model's file, `preprocessor` the user's pickle. `fields` are
    further fields of the card; its default name is `carla-{kind}`. `predict` is the original
    policy; an error calls its actions `whose`. `spread` gives the standard deviation that it is
    sampled with, shape (1, actions), in an action's place, if it has one of its own. Raises
    ArtifactError, and then leaves nothing.
    """
    name = options.get("name")
    framework = onnxruntime if kind == "onnx" else torch
    try:
        card = ModelCard(
            model_name=f"carla-{kind}" if name is None else name,
            version=folder.name,
            framework_version=framework.__version__.partition("+")[0],
            description=options.get("description", ""),
            performance_metrics=user_code.keywords("--metrics", options.get("metrics")),
            artifact_hashes={},
            **fields,
        )
    except ValidationError as error:
        raise ArtifactError(f"{source}: no model card: {first_fault(error)}") from None
    origins = {artifact.model_file(card): source}
    pickled = pickles.NOTHING
    if preprocessor is not None:
        origins[artifact.PREPROCESSOR] = preprocessor
        pickled = files.read(preprocessor, "pickle")
        columns.check(preprocessor, pickled, card.signature, interface.teller(options))
    return artifact.create(
        folder,
        card,
        model,
        pickled,
        options.get("observations"),
        lambda written: _compare(written, predict, spread, whose),
        origins,
    )


def _compare(written: Artifact, predict: Predict, spread: Predict | None, whose: str) -> None:
    """Compare the original policy's actions with the artifact's, by the rule for exports.

    It computes one row at a time, as `Truth` does: a batch is rounded in another way. In each row
    an episode starts; a policy with a state is also compared in a drive. Corners of a space without
    wide ranges are compared apart; exports tell what is not finite.
    """
    rows = parity.observations(written)
    _compare_rows(written, predict, whose, rows)
    if written.card.signature.stateful:
        _compare_rows(written, predict, whose, rows, drive=True)
    if spread is not None:
        _compare_spread(written, spread, whose, rows)
    space = written.card.signature.observation_space
    if any(np.abs(end).max() > EDGE for leaf in leaves(space) for end in leaf.space.limits()):
        return
    ends = corners(space)
    with np.errstate(all="ignore"):
        made = run(written.policy, *parity.inputs(written, ends))
        finite = np.logical_and.reduce(
            [np.isfinite(one).reshape(len(one), -1).all(axis=1) for one in made]
        )
        if finite.any():
            _compare_rows(written, predict, whose, tuple(values[finite] for values in ends))


def _compare_rows(
    written: Artifact, predict: Predict, whose: str, rows: Rows, drive: bool = False
) -> None:
    if drive:
        rows = parity.steps(rows)
    given = parity.inputs(written, rows)
    starts = np.ones(len(given[0]), bool)
    if drive:
        given, starts = parity.episodes(written, given)
    truth = Truth.of(written.policy, *given, driven=drive)
    made = _alone(predict, rows, given[0], starts)
    outputs = (*_outputs(written.policy, made[0].reshape(len(starts), -1)), *made[1:])
    error, good = truth.errors(outputs, np.arange(len(starts)))
    if not good:
        what = f"within {parity.STEPS} steps its actions or its state" if drive else "its actions"
        raise ArtifactError(f"{what} differ from {whose} by {error:.2g}")


def _alone(
    predict: Predict, rows: Rows, features: NDArray[np.float32], starts: NDArray[np.bool_]
) -> list[NDArray[Any]]:
    """Return what `predict` gives for one row after the other."""
    made = (
        predict(tuple(values[i : i + 1] for values in rows), features[i : i + 1], bool(starts[i]))
        for i in range(len(features))
    )
    return [np.concatenate(column) for column in zip(*made, strict=True)]


def _compare_spread(written: Artifact, spread: Predict, whose: str, rows: Rows) -> None:
    """Compare the standard deviation of some rows, to a thousandth."""
    rows = tuple(values[:_SPREADS] for values in rows)
    features, _, *others = parity.inputs(written, rows)
    others = [one for one in others if one.dtype != bool]  # `episode_start`
    with torch.inference_mode():
        made = written.policy.gaussian(*map(torch.from_numpy, (features, *others)))
    _, std = made[0] if written.card.signature.stateful else made
    (own,) = _alone(spread, rows, features, np.ones(len(features), bool))
    if not np.allclose(std.numpy(), own, rtol=1e-3):
        told = "the standard deviation of its noise differs from that of"
        raise ArtifactError(f"{told} {whose} by {np.abs(std.numpy() - own).max():.2g}")


def _outputs(policy: Policy, raw: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Return the outputs of a policy model for actions in the policy's own space."""
    if policy.control is None:
        return (raw,)
    with torch.inference_mode():
        action = policy.controls(torch.from_numpy(raw)).numpy()
    return (action, raw) if policy.two else (action,)
