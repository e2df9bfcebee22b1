"""Commands that make, sign and check artifacts."""

from __future__ import annotations

from pathlib import Path

import click

from carlarl.options import (
    Failure,
    Version,
    artifacts_option,
    extra,
    read,
)


@click.command("import-sb3")
@click.argument("policy", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--version", type=Version(), required=True, help="The new artifact's version.")
@click.option(
    "--vecnormalize",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Statistics that VecNormalize.save wrote.",
)
@click.option("--layout", help="What the action's elements are, e.g. steer,acceleration.")
@click.option("--name", help="model_name in the card. [default: carla-ALGORITHM]")
@click.option("--description", default="", help="One sentence for the card.")
@click.option(
    "--metrics",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML of measured performance metrics, for the card.",
)
@click.option(
    "--observations",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Recorded observations (.npy), which exports are compared on.",
)
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
    click.echo(
        f"{folder}: written; `carlarl export --version {version}` puts it into the repository"
    )


COMMANDS = (import_sb3,)
