"""The files of the models, for the Python backend and for Triton's C++ backends."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from converters.artifact.artifact import Artifact
from converters.export import native, parity
from converters.export.formats import Format
from converters.export.tensorrt import BuilderError
from triton_backend import engine, preprocessing

Files = dict[str, bytes]


@dataclass(frozen=True)
class Contents:
    """The files of a flavour's models.

    Attributes:
        preprocess: files of one version of the preprocessing model.
        policy: files of one version of a policy model, made from those that hold the policy.
        fused: files of the model that does both steps in one process, made from those of the
            policy as ONNX; None if the flavour has no such model.
    """

    preprocess: Callable[[Artifact], Files]
    policy: Callable[[Format, Files], Files]
    fused: Callable[[Artifact, Files], Files] | None


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
    expected = parity.features(source, observations)
    if native.features(graph, source.preprocessing, observations).tobytes() != expected.tobytes():
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


CONTENTS = {
    "python": Contents(_python_preprocess, _python_policy, _python_fused),
    "native": Contents(_native_preprocess, _native_policy, None),
}
"""By flavour."""
