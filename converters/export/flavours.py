"""The two flavours of a repository: for the Python backend, and for Triton's C++ backends."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from converters.artifact.artifact import Artifact
from converters.export import native, parity
from converters.export.formats import Format
from converters.export.tensorrt import BuilderError
from converters.repository import configs
from triton_backend import engine, preprocessing

Files = dict[str, bytes]


@dataclass(frozen=True)
class Flavour:
    """One way to serve a repository.

    Attributes:
        preprocess: config of the preprocessing model of a shape.
        preprocess_files: files of one version of it.
        policy: config of the policy model of a shape in a format, on a device.
        policy_files: files of one version of it, made from those that hold the policy.
        ensemble: config of an ensemble: name, version, shape, format, parameters.
        fused_files: files of the model that does both steps in one process, made from those of
            the policy as ONNX; None if the flavour has no such model.
    """

    preprocess: Callable[[configs.Shape], str]
    preprocess_files: Callable[[Artifact], Files]
    policy: Callable[[configs.Shape, str, str], str]
    policy_files: Callable[[Format, Files], Files]
    ensemble: Callable[[str, str, configs.Shape, str, Mapping[str, str]], str]
    fused_files: Callable[[Artifact, Files], Files] | None


def _python_preprocess(source: Artifact) -> Files:
    return {
        "model.py": _model_py("preprocess", "TritonPythonModel"),
        preprocessing.FILE_NAME: source.preprocessing.dumps().encode(),
    }


def _python_policy(form: Format, files: Files) -> Files:
    return {"model.py": _model_py("policy", form.model), **files}


def _python_fused(source: Artifact, policy: Files) -> Files:
    model = {"model.py": _model_py("fused", "TritonPythonModel")}
    return {**_python_preprocess(source), **policy, **model}


def _model_py(module: str, name: str) -> bytes:
    renamed = "" if name == "TritonPythonModel" else " as TritonPythonModel"
    return f"from triton_backend.{module} import {name}{renamed}\n".encode()


def _native_preprocess(source: Artifact) -> Files:
    """Return the graph. Raises ParityError if its features are not the Python flavour's."""
    graph = native.graph(source.preprocessing)
    observations = parity.observations(source)
    expected = source.preprocessing.features(observations)
    if native.features(graph, observations).tobytes() != expected.tobytes():
        raise parity.ParityError(
            f"{source.card.version}: the preprocessing graph's features differ from those that the "
            "policy was trained with"
        )
    return {native.FILE_NAME: graph}


def _native_policy(form: Format, files: Files) -> Files:
    record = files.get(engine.FILE_NAME)
    if record is not None and json.loads(record)["builder"] != "tensorrt":
        raise BuilderError(
            "Triton's tensorrt backend takes plans of NVIDIA's tensorrt alone: export tensorrt in "
            "the native flavour on the GPU machine, with the tensorrt version of its Triton "
            "installed (pip install -e '.[gpu]')"
        )
    return files


FLAVOURS = {
    "python": Flavour(
        configs.preprocess,
        _python_preprocess,
        configs.policy,
        _python_policy,
        configs.ensemble,
        _python_fused,
    ),
    native.FLAVOUR: Flavour(
        native.preprocess,
        _native_preprocess,
        native.policy,
        _native_policy,
        native.ensemble,
        None,
    ),
}
"""By name; the first is the default."""
