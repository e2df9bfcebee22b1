"""An ONNX model of a policy → artifact."""

from pathlib import Path
from typing import Unpack

from converters.importers import files, onnx_model, programs, torchscript
from converters.importers import outputs as outputs_of
from converters.importers.declared import Declared, Said


def import_onnx(
    model: Path,
    version: str,
    artifacts: Path,
    *,
    preprocessor: Path | None = None,
    scale_images: bool = False,
    **said: Unpack[Said],
) -> Path:
    """Write the artifact of an ONNX model and return its folder.

    The model takes and gives what `import_torchscript` says of a program. Its inputs may have the
    names of the observation's leaves instead, and then each takes one. An image goes in with its
    channels first where the model takes it so; with `scale_images` an input of floats gets it from
    0 to 1. The artifact holds the user's file, or one with the same operators and others around
    them. The artifact's actions are compared with the model's own, fed by its
    inputs' names. Raises ArtifactError for a model that can't be a policy's, for another kind of
    file, and for a version that exists.
    """
    data = files.read(model, "onnx")
    declared = Declared.of(model, said)
    data, declared, own = onnx_model.read(data, declared, scale_images)
    data, width, outputs = programs.read(data, declared, onnx_model.open_model, onnx_model.trace)
    own = outputs_of.served(own, declared)
    folder = artifacts / version
    return torchscript.write(
        folder, declared, data, width, outputs, own, "the model's own", preprocessor, kind="onnx"
    )
