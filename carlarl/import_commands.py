"""Commands that make artifacts of trained policies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from carlarl.options import (
    FILE,
    F,
    Failure,
    Version,
    artifacts_option,
    extra,
    read,
)


def _card_options(name: str) -> Callable[[F], F]:
    """Add what an importer writes into the card beside the policy."""
    options = (
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
    )

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.command("import-sb3")
@click.argument("policy", type=FILE)
@click.option("--version", type=Version(), required=True, help="The new artifact's version.")
@click.option(
    "--vecnormalize",
    type=FILE,
    help="Statistics that VecNormalize.save wrote.",
)
@click.option("--layout", help="What the action's elements are, e.g. steer,acceleration.")
@_card_options("carla-ALGORITHM")
@artifacts_option
def import_sb3(
    policy: Path,
    version: str,
    vecnormalize: Path | None,
    layout: str | None,
    name: str | None,
    description: str,
    metrics: Path | None,
    observations: Path | None,
    artifacts: Path | None,
) -> None:
    """Make an artifact of a policy trained with Stable-Baselines3.

    PPO, A2C, SAC or TD3 with MlpPolicy. Stable-Baselines3 itself opens POLICY, and runs what it
    holds: import only a file that you trust.

    Example: carlarl import-sb3 policy.zip --vecnormalize vecnormalize.pkl --version v0.3.0
    """
    with extra("train"):
        from converters.card import ArtifactError
        from converters.sb3 import import_sb3
    import yaml

    try:
        folder = import_sb3(
            policy,
            version,
            read(artifact_dir=artifacts).artifact_dir,
            vecnormalize=vecnormalize,
            layout=layout.split(",") if layout else None,
            name=name,
            description=description,
            metrics=yaml.safe_load(metrics.read_text()) if metrics else None,
            observations=observations,
        )
    except (ArtifactError, ValueError, yaml.YAMLError) as error:
        raise Failure(str(error)) from None
    _tell(folder, version)


@click.command("import-torchscript")
@click.argument("program", type=FILE)
@click.option("--version", type=Version(), required=True, help="The new artifact's version.")
@click.option("--sensors", type=click.IntRange(1, 4096), required=True, help="Per observation.")
@click.option(
    "--layout",
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
@_card_options("carla-torchscript")
@artifacts_option
def import_torchscript(
    program: Path,
    version: str,
    sensors: int,
    layout: str,
    squash: str,
    preprocessor: Path | None,
    name: str | None,
    description: str,
    metrics: Path | None,
    observations: Path | None,
    artifacts: Path | None,
) -> None:
    """Make an artifact of a TorchScript program.

    It takes features [n, 2 + sensors] and gives the action's mean, or its mean and standard
    deviation. A program is code: import only a file that you trust.

    Example: carlarl import-torchscript program.pt --version v0.3.0 --sensors 5
    """
    with extra("convert"):
        from converters.card import ArtifactError
        from converters.torchscript import import_torchscript
    import yaml

    try:
        folder = import_torchscript(
            program,
            version,
            sensors,
            read(artifact_dir=artifacts).artifact_dir,
            layout=layout.split(","),
            squash=squash,
            preprocessor=preprocessor,
            name=name or "carla-torchscript",
            description=description,
            metrics=yaml.safe_load(metrics.read_text()) if metrics else None,
            observations=observations,
        )
    except (ArtifactError, ValueError, yaml.YAMLError) as error:
        raise Failure(str(error)) from None
    _tell(folder, version)


def _tell(folder: Path, version: str) -> None:
    click.echo(
        f"{folder}: written; `carlarl export --version {version}` puts it into the repository"
    )


COMMANDS = (import_sb3, import_torchscript)
