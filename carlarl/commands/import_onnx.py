"""`carlarl import-onnx`: an ONNX model becomes an artifact."""

from pathlib import Path
from typing import Any

import click

from carlarl.commands.import_options import declared_options, write_artifact
from carlarl.commands.options import FILE, extra


@click.command("import-onnx")
@click.argument("model", type=FILE)
@declared_options("carla-onnx")
@click.option(
    "--scale-images", is_flag=True, help="An input of floats takes uint8 images divided by 255."
)
def import_onnx(model: Path, **given: Any) -> None:
    """Make an artifact of an ONNX model.

    The model takes the flat observation, float32 [n, F], and each image beside it; or an input for
    each part of the observation, with its name. It returns what --distribution says: the action's
    mean, its mean and standard deviation, or the logits of a discrete action. Data in files beside
    it is taken in.

    Example: carlarl import-onnx policy.onnx --version v0.3.0 --fields speed,steering,sensors:5
    --layout throttle,brake,steer
    """
    with extra("convert"):
        from converters.importers.import_onnx import import_onnx
    write_artifact(import_onnx, model, **given)
