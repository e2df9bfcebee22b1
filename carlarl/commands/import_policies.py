"""Commands that make artifacts of trained policies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from carlarl.commands.options import FILE, F, Failure, Names, Version, artifacts_option, extra, read


def _options(name: str) -> Callable[[F], F]:
    """Add what both importers take: which version, what its card says, and where it goes."""
    options = (
        click.option(
            "--version", type=Version(), required=True, help="The new artifact's version."
        ),
        click.option("--name", help=f"model_name in the card. [default: {name}]"),
        click.option("--description", default="", help="One sentence for the card."),
        click.option(
            "--metrics", type=FILE, help="YAML of measured performance metrics, for the card."
        ),
        click.option(
            "--observations",
            type=FILE,
            help="Recorded observations (.npy), which exports are compared on.",
        ),
        artifacts_option,
    )

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.command("import-sb3")
@click.argument("policy", type=FILE)
@click.option("--vecnormalize", type=FILE, help="Statistics that VecNormalize.save wrote.")
@click.option(
    "--layout", type=Names(), help="What the action's elements are, e.g. steer,acceleration."
)
@_options("carla-ALGORITHM")
def import_sb3(policy: Path, **given: Any) -> None:
    """Make an artifact of a policy trained with Stable-Baselines3.

    PPO, A2C, SAC or TD3 with MlpPolicy. Stable-Baselines3 itself opens POLICY, and runs what it
    holds: import only a file that you trust.

    Example: carlarl import-sb3 policy.zip --vecnormalize vecnormalize.pkl --version v0.3.0
    """
    with extra("train"):
        from converters.importers.sb3 import import_sb3
    _import(import_sb3, policy, **given)


@click.command("import-torchscript")
@click.argument("program", type=FILE)
@click.option("--sensors", type=click.IntRange(1, 4096), required=True, help="Per observation.")
@click.option(
    "--layout",
    type=Names(),
    default="throttle,brake,steer",
    show_default=True,
    help="What the action's elements are.",
)
@click.option(
    "--squash",
    type=click.Choice(["clip", "tanh"]),
    default="clip",
    show_default=True,
    help="How the program's mean is brought into the action's range.",
)
@click.option("--preprocessor", type=FILE, help="Pickle of a scaler, pipeline or VecNormalize.")
@_options("carla-torchscript")
def import_torchscript(program: Path, **given: Any) -> None:
    """Make an artifact of a TorchScript program.

    It takes features [n, 2 + sensors] and gives the action's mean, or its mean and standard
    deviation. A program is code: import only a file that you trust.

    Example: carlarl import-torchscript program.pt --version v0.3.0 --sensors 5
    """
    with extra("convert"):
        from converters.importers.torchscript import import_torchscript
    _import(import_torchscript, program, **given)


def _import(
    convert: Callable[..., Path],
    policy: Path,
    *,
    version: str,
    artifacts: Path | None,
    metrics: Path | None,
    **given: Any,
) -> None:
    from converters.artifact.card import ArtifactError, parse_yaml, read_bytes

    try:
        measured = None if metrics is None else parse_yaml(read_bytes(metrics), metrics)
        target = read(artifact_dir=artifacts).artifact_dir
        folder = convert(policy, version, target, metrics=measured, **given)
    except ArtifactError as error:
        raise Failure(str(error)) from None
    click.echo(
        f"{folder}: written; `carlarl export --version {version}` puts it into the repository"
    )


COMMANDS = (import_sb3, import_torchscript)
