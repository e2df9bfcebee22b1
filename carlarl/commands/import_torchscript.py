"""`carlarl import-torchscript`: a TorchScript program becomes an artifact."""

from pathlib import Path
from typing import Any

import click

from carlarl.commands.import_options import declared_options, write_artifact
from carlarl.commands.options import FILE, extra


@click.command("import-torchscript")
@click.argument("program", type=FILE)
@click.option(
    "--sensors", type=click.IntRange(1, 4096), help="Short for --fields speed,steering,sensors:N."
)
@declared_options("carla-torchscript")
def import_torchscript(program: Path, sensors: int | None, **given: Any) -> None:
    """Make an artifact of a TorchScript program.

    The program takes float32 features [n, F], the flat observation, and after them each raster of
    --spec or --env as it is, such as uint8 [n, 96, 96, 3]. It returns what --distribution says: the
    action's mean, its mean and standard deviation, or the logits of a discrete action. A program is
    code: import only a file that you trust.

    Example: carlarl import-torchscript program.pt --version v0.3.0 --sensors 5
    --layout throttle,brake,steer
    """
    with extra("convert"):
        from converters.importers.torchscript import import_torchscript
    if sensors is not None:
        if given["fields"] is not None:
            raise click.UsageError("--sensors is short for --fields: give one of them")
        given["fields"] = ("speed", "steering", f"sensors:{sensors}")
    write_artifact(import_torchscript, program, **given)
