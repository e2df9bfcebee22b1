"""`carlarl import-torchscript`: a TorchScript program becomes an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from carlarl.commands.import_options import import_options, write_artifact
from carlarl.commands.options import FILE, NAMES, extra


@click.command("import-torchscript")
@click.argument("program", type=FILE)
@click.option("--sensors", type=click.IntRange(1, 4096), required=True, help="Per observation.")
@click.option(
    "--layout",
    type=NAMES,
    default="throttle,brake,steer",
    show_default=True,
    help="The action's elements.",
)
@click.option(
    "--squash",
    type=click.Choice(["clip", "tanh"]),
    default="clip",
    show_default=True,
    help="How the program's mean is brought into the action's range.",
)
@click.option("--preprocessor", type=FILE, help="Pickle of a scaler, pipeline or VecNormalize.")
@import_options("carla-torchscript")
def import_torchscript(program: Path, **given: Any) -> None:
    """Make an artifact of a TorchScript program.

    The program takes features [n, 2 + sensors] and returns the action's mean, or its mean and
    standard deviation. A program is code: import only a file that you trust.

    Example: carlarl import-torchscript program.pt --version v0.3.0 --sensors 5
    """
    with extra("convert"):
        from converters.importers.torchscript import import_torchscript
    write_artifact(import_torchscript, program, **given)
