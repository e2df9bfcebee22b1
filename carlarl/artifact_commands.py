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


@click.command()
@click.argument("versions", type=Version(), nargs=-1)
@click.option(
    "--key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Private Ed25519 key in PEM.",
)
@click.option(
    "--generate",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Make a key pair instead: the private key in FILE, the public one in FILE.pub.",
)
@artifacts_option
def sign(
    versions: tuple[str, ...], key: Path | None, generate: Path | None, artifacts: Path | None
) -> None:
    """Sign artifacts, so that others can tell that they are yours.

    The signature is over the model card, which holds the hashes of all other files.

    \b
    Example: carlarl sign --generate key.pem
    Example: carlarl sign v0.2.0 --key key.pem
    """
    with extra("convert"):
        from converters import artifact, signature
        from converters.card import ArtifactError

    if (key is None) == (generate is None) or bool(versions) != (generate is None):
        raise click.UsageError("give VERSIONS and --key FILE, or --generate FILE alone")
    source = read(artifact_dir=artifacts).artifact_dir
    try:
        if generate is not None:
            public = signature.generate(generate)
            click.echo(f"{generate}: private key, keep it safe; {public}: public key, give it away")
            return
        assert key is not None  # checked above
        private = signature.private_key(key)
        for version in versions:
            card, _ = artifact.read_card(source / version)
            artifact.verified_files(source / version, card)
            click.echo(f"{signature.sign(source / version, private)}: written")
    except (ArtifactError, signature.KeyFileError, OSError) as error:
        raise Failure(str(error)) from None


COMMANDS = (import_sb3, sign)
