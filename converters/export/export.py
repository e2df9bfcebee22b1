"""Artifacts → Triton model repository."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from converters.artifact import artifact
from converters.artifact.observations import json_form
from converters.artifact.versions import triton_version
from converters.errors import ConversionError, one_line
from converters.export import parity
from converters.export.flavours import CONTENTS
from converters.export.formats import FORMATS, Format, Program, chosen
from converters.export.onnx_file import ExportError
from converters.export.truth import Truth
from converters.repository import activation, configs, repository
from converters.repository.tensors import max_batch_size
from triton_backend.cuda import NoGpuError
from triton_backend.engine import UnusableEngineError
from triton_backend.runtimes import Runtime

GOLDEN_ROWS = 4
"""How many recorded actions a server must repeat before it counts as ready."""
GOLDEN_BYTES = 96 << 10
"""Bytes of their observations, which are in the ensemble's configuration; one row may have more."""


@dataclass(frozen=True)
class Exported:
    """The versions that an export wrote, and the one that is active afterwards."""

    versions: tuple[str, ...]
    active: str


def export(
    folders: Sequence[Path],
    target: Path,
    formats: Sequence[str] | None = None,
    activate: str | None = None,
    progress: Callable[[str, str], None] = lambda version, step: None,
    capabilities: tuple[str, ...] = (),
    flavour: str = "python",
    precision: str = "fp32",
    *,
    key: Ed25519PublicKey | None = None,
) -> Exported:
    """Write the artifacts in `folders` into the model repository `target`, all or nothing.

    The first of `formats` is served; without them each version gets its default ones. `activate`
    names the version that becomes active; without it the active one stays, or the newest becomes
    active if there is none. `progress` gets each step.
    `capabilities` are the compute capabilities of TensorRT engines. `flavour` is `python`, or
    `native` for the C++ backends of a stock Triton; a repository has one. `precision` is `fp32`, or
    `fp16` for convolutions and matrix products on a GPU. With a `key`, artifacts
    that it did not sign are refused. Raises ConversionError and leaves the repository as it was.
    """
    half = precision == "fp16"
    torch.set_num_threads(1)  # as it is served; more threads slow down the rows of a comparison
    with repository.transaction(target) as tree:
        held = repository.flavour(tree)
        if held not in (None, flavour):
            raise repository.RepositoryError(
                f"{target}: it is of the {held} flavour, and a repository has one: export the "
                f"{flavour} flavour into another folder with --repository"
            )
        sources = []
        for folder in folders:
            progress(folder.name, "load")
            sources.append(artifact.load(folder, key))
        _check_versions(tree, sources, activate)
        each = [_formats(source, formats, flavour, half) for source in sources]
        for source, names in zip(sources, each, strict=True):
            _write_version(tree, source, names, progress, capabilities, flavour, half)
        newest = [one.version for one in repository.versions(tree) if one.damaged is None][-1]
        active = activate or repository.active_version(tree) or newest
        activation.set_alias(tree, active)
    return Exported(tuple(folder.name for folder in folders), active)


def _formats(
    source: artifact.Artifact, asked: Sequence[str] | None, flavour: str, half: bool
) -> tuple[str, ...]:
    """Return the formats of a version; raise ExportError if there is none of FP16 for it."""
    names = chosen(source.card, asked)
    if half and not any(_has_half(FORMATS[name], flavour) for name in names):
        raise ExportError(
            "FP16 is for torchscript and tensorrt on a GPU, in the native flavour for tensorrt "
            "alone: name one in --formats, or leave --precision fp16"
        )
    return names


def _has_half(form: Format, flavour: str) -> bool:
    """Whether a format is served in FP16. Triton's pytorch backend computes as the file says."""
    return form.half is not None and (flavour == "python" or form.device == "GPU")


def _check_versions(tree: Path, sources: Sequence[artifact.Artifact], activate: str | None) -> None:
    """Refuse to change a version, or to activate one that is absent, before any conversion."""
    sound = [one for one in repository.versions(tree) if one.damaged is None]
    digests = {one.version: one.digest for one in sound}
    for source in sources:
        version = source.card.version
        if digests.setdefault(version, source.digest) != source.digest:
            raise repository.RepositoryError(
                f"{tree}: it holds {version} of another artifact, {digests[version]}, and versions "
                "never change; give the changed artifact a new version"
            )
    if activate is not None:
        repository.check_held(tree, activate, digests)


def _write_version(
    tree: Path,
    source: artifact.Artifact,
    formats: Sequence[str],
    progress: Callable[[str, str], None],
    capabilities: tuple[str, ...],
    flavour: str,
    half: bool,
) -> None:
    card = source.card
    version, number = card.version, str(triton_version(card.version))
    signature = card.signature
    served, contents = configs.FLAVOURS[flavour], CONTENTS[flavour]
    written = set()
    if served.features(signature):
        model = tree / configs.preprocess_name(version)
        written.add(model)
        _write_config(tree, model.name, configs.preprocess(version, signature, served))
        for file, content in contents.preprocess(source).items():
            repository.write(model / number / file, content)

    rows = max_batch_size(signature)
    with _foreign(version):
        program = Program.trace(source.policy, signature, rows, capabilities, half)
    cells: list[dict[str, Any]] = []
    onnx: dict[str, bytes] = {}
    for name in formats:
        form = FORMATS[name]
        progress(version, name)
        model = tree / configs.policy_name(version, name)
        config = configs.policy(version, signature, name, form.device, served, half)
        _write_config(tree, model.name, config)
        with _foreign(f"{version} as {name}"):
            converted = _converted(form, program, model / number)
        onnx = converted if name == "onnx" else onnx
        for file, content in contents.policy(form, converted).items():
            repository.write(model / number / file, content)
        written.add(model)
        progress(version, f"{name} parity")
        with _foreign(f"{version} as {name}"):
            path, first = model / number / form.file, name == formats[0]
            halved = half and _has_half(form, flavour)
            if not halved or form.device == "CPU":
                cells += _compared(source, form, path, form.open, first)
            if halved and form.half is not None:
                only = first and form.device == "GPU"
                cells += _compared(source, form, path, form.half, only, half=True)

    tolerances = {"tolerance": parity.tolerance(source)}
    if half:
        tolerances["fp16_tolerance"] = parity.tolerance(source, half)
    parameters = {
        "version": version,
        "artifact_digest": source.digest,
        "formats": ",".join(formats),
        "model_card": _json(card.model_dump(mode="json", exclude_none=True)),
        "golden": _json(_golden(source, max(tolerances.values()), half)),
        "certificate": _json({**tolerances, "cells": cells}),
    }
    if half:
        parameters[configs.PRECISION] = "fp16"
    if signature.is_driving_form:
        parameters["sensors"] = str(signature.sensors)
    for name in formats:
        ensemble = configs.ensemble_name(version, None if name == formats[0] else name)
        told = {**parameters, "format": name}
        text = configs.ensemble(ensemble, version, signature, name, told, served)
        repository.write_ensemble(tree, ensemble, text)
        written.add(tree / ensemble)
    if contents.fused is not None and formats[0] == "onnx":
        model = tree / configs.ensemble_name(version, configs.FUSED)
        _write_config(tree, model.name, configs.fused(version, signature, half))
        for file, content in contents.fused(source, onnx).items():
            repository.write(model / "1" / file, content)
        written.add(model)
    repository.remove_version(tree, version, written)


@contextmanager
def _foreign(what: str) -> Iterator[None]:
    """Say what failed, in one sentence, whatever a foreign program provokes in a library."""
    try:
        yield
    except ExportError as error:
        raise ExportError(f"{what}: {error}") from error
    except ConversionError:
        raise
    except Exception as error:
        raise ExportError(
            f"{what}: it fails with {type(error).__name__}: {one_line(error)}"
        ) from error


def _write_config(tree: Path, name: str, config: str) -> None:
    repository.write(tree / name / "config.pbtxt", config.encode())


def _converted(form: Format, program: Program, earlier: Path) -> dict[str, bytes]:
    """Return the files of a format by name. `earlier` is the folder of the last export."""
    names = (form.file, *form.beside)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        for name in names:
            if (earlier / name).is_file():
                shutil.copyfile(earlier / name, folder / name)
        form.write(program, folder / form.file)
        return {name: (folder / name).read_bytes() for name in names}


def _compared(
    source: artifact.Artifact,
    form: Format,
    path: Path,
    opened: Callable[[Path], Runtime],
    needed: bool,
    half: bool = False,
) -> list[dict[str, Any]]:
    """Return the certificate's cells of one format in one precision; it must run here if `needed`.

    `opened` opens the path.
    """
    try:
        runtime = opened(path)
    except (UnusableEngineError, NoGpuError) as error:
        if needed:
            raise parity.ParityError(
                f"{source.card.version} as {form.name} can't be compared with the trained policy "
                f"here, so it can't be the format that is served by default: {error}"
            ) from None
        return parity.not_measured(source, form.name, str(error), half)
    return parity.measure(source, form.name, runtime, half)


def _golden(source: artifact.Artifact, tolerance: float, half: bool) -> dict[str, Any]:
    rows = parity.observations(source)
    truth = Truth.of(source.policy, *parity.inputs(source, rows), half=half)
    clear = np.flatnonzero(truth.clear())
    size = sum(values[0].nbytes for values in rows)
    count = max(1, min(GOLDEN_ROWS, GOLDEN_BYTES // size))
    picked = clear[:count] if len(clear) else slice(count)
    rows = tuple(one[picked] for one in rows)
    return {
        "observations": json_form(source.card.signature.observation_space, rows),
        "actions": parity.actions(source, *parity.inputs(source, rows)).round(6).tolist(),
        "tolerance": tolerance,
    }


def _json(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"), allow_nan=False)
