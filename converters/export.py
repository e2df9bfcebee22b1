"""Artifacts → Triton model repository."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from converters import activation, artifact, configs, parity, repository
from converters.formats import FORMATS, Format, Program
from converters.versions import triton_version
from triton_backend.preprocessing import FILE_NAME

GOLDEN_ROWS = 4
"""Recorded observations whose actions a server must repeat before it counts as ready."""


@dataclass(frozen=True)
class Exported:
    """What an export did: versions written, and the one that is active afterwards."""

    versions: tuple[str, ...]
    active: str


def export(
    folders: Sequence[Path],
    target: Path,
    formats: Sequence[str] = tuple(FORMATS),
    activate: str | None = None,
    progress: Callable[[str, str], None] = lambda version, step: None,
    *,
    key: Ed25519PublicKey | None = None,
) -> Exported:
    """Write the artifacts in `folders` into the model repository `target`, all or nothing.

    The first of `formats` is the one that is served. `activate` names the version that becomes
    active; without it the active one stays, or is the newest where there was none. `progress` is
    told each step. With a `key`, artifacts that are not signed by it are refused. Raises
    ArtifactError, ParityError or RepositoryError, and leaves the repository as it was.
    """
    with repository.transaction(target) as tree:
        for folder in folders:
            progress(folder.name, "load")
            _write_version(tree, artifact.load(folder, key), formats, progress)
        newest = repository.versions(tree)[-1].version
        active = activate or repository.active_version(tree) or newest
        activation.set_alias(tree, active)
    return Exported(tuple(folder.name for folder in folders), active)


def _write_version(
    tree: Path,
    source: artifact.Artifact,
    formats: Sequence[str],
    progress: Callable[[str, str], None],
) -> None:
    card = source.card
    number = str(triton_version(card.version))
    shape = configs.Shape(card.sensors, len(card.action.layout))
    written = {tree / shape.preprocess / number}
    model = tree / shape.preprocess
    _write_config(tree, shape.preprocess, configs.preprocess(shape))
    repository.write(model / number / "model.py", _model_py("preprocess", "TritonPythonModel"))
    repository.write(model / number / FILE_NAME, source.preprocessing.dumps().encode())

    program = Program.trace(source.policy, card.sensors + 2, shape.noise)
    cells: list[dict[str, Any]] = []
    for name in formats:
        form = FORMATS[name]
        progress(card.version, name)
        model = tree / shape.policy(name)
        _write_config(tree, model.name, configs.policy(shape, name))
        repository.write(model / number / "model.py", _model_py("policy", form.model))
        content = _converted(form, program)
        repository.write(model / number / form.file, content)
        written.add(model / number)
        progress(card.version, f"{name} parity")
        cells += parity.measure(source, name, form.open(model / number / form.file))

    parameters = {
        "version": card.version,
        "artifact_digest": source.digest,
        "sensors": str(card.sensors),
        "formats": ",".join(formats),
        "model_card": _json(card.model_dump(mode="json", exclude_none=True)),
        "golden": _json(_golden(source)),
        "certificate": _json({"tolerance": parity.TOLERANCE, "cells": cells}),
    }
    for name in formats:
        ensemble = configs.ensemble_name(card.version, None if name == formats[0] else name)
        text = configs.ensemble(ensemble, card.version, shape, name, {**parameters, "format": name})
        repository.write_ensemble(tree, ensemble, text)
        written.add(tree / ensemble)
    _remove_others(tree, card.version, written)


def _remove_others(tree: Path, version: str, written: set[Path]) -> None:
    """Take out what an earlier export of this version wrote and this one did not."""
    number = triton_version(version)
    for pattern in (f"preprocess*/{number}", f"policy_*/{number}", f"{configs.ALIAS}*-{version}"):
        for path in set(tree.glob(pattern)) - written:
            shutil.rmtree(path)
    for path in (*tree.glob("preprocess*"), *tree.glob("policy_*")):
        if not any(child.is_dir() for child in path.iterdir()):
            shutil.rmtree(path)


def _write_config(tree: Path, name: str, config: str) -> None:
    repository.write(tree / name / "config.pbtxt", config.encode())


def _model_py(module: str, name: str) -> bytes:
    renamed = "" if name == "TritonPythonModel" else " as TritonPythonModel"
    return f"from triton_backend.{module} import {name}{renamed}\n".encode()


def _converted(form: Format, program: Program) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / form.file
        form.write(program, path)
        return path.read_bytes()


def _golden(source: artifact.Artifact) -> dict[str, Any]:
    recorded = source.observations[:GOLDEN_ROWS]
    observations = recorded if len(recorded) else parity.corners(source.card.sensors)[:GOLDEN_ROWS]
    features = source.preprocessing.features(observations)
    noise = np.zeros((len(features), source.preprocessing.noise), np.float32)
    return {
        "observations": [
            {"speed": row[0], "steering": row[1], "sensors": row[2:]}
            for row in observations.tolist()
        ],
        "actions": parity.actions(source, features, noise).round(6).tolist(),
        "tolerance": parity.TOLERANCE,
    }


def _json(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"), allow_nan=False)
