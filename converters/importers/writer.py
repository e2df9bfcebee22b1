"""Write the artifact of an imported policy, and compare its actions with the policy's own."""

from collections.abc import Callable
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

Predict = Callable[[Rows, NDArray[np.float32]], NDArray[Any]]
"""Observations, for each leaf its values, and their features → actions."""

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
    further fields of the card; its default name is `carla-{kind}`. `predict` maps observations (for
    each leaf its values) and their features, shape (n, features), to the original policy's
    deterministic actions in its own space, shape (n, …); an error calls them `whose`. `spread` maps
    them to the standard deviation that it is sampled with, shape (n, actions), if it has one of its
    own. Raises ArtifactError, and then leaves nothing.
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

    It computes one row at a time, as `Truth` does: a batch is rounded in another way. Corners of
    a space without wide ranges are compared apart; exports tell what is not finite.
    """
    rows = parity.observations(written)
    _compare_rows(written, predict, whose, rows)
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


def _compare_rows(written: Artifact, predict: Predict, whose: str, rows: Rows) -> None:
    features, *others = parity.inputs(written, rows)
    truth = Truth.of(written.policy, features, *others)
    alone = (
        predict(tuple(values[i : i + 1] for values in rows), features[i : i + 1])
        for i in range(len(features))
    )
    raw = np.concatenate([one.reshape(1, -1) for one in alone])
    error, good = truth.errors(_outputs(written.policy, raw), np.arange(len(features)))
    if not good:
        raise ArtifactError(f"its actions differ from {whose} by {error:.2g}")


def _compare_spread(written: Artifact, spread: Predict, whose: str, rows: Rows) -> None:
    """Compare the standard deviation of some rows, to a thousandth."""
    features, _, *others = parity.inputs(written, tuple(values[:_SPREADS] for values in rows))
    some = [torch.from_numpy(one) for one in (features, *others)]
    with torch.inference_mode():
        _, std = written.policy.gaussian(*some)
    own = spread(tuple(values[:_SPREADS] for values in rows), features)
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
