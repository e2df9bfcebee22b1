"""`carlarl sign`: sign artifacts, or make the keys for that."""

from pathlib import Path

import click

from carlarl.commands import options
from gateway.config.settings import read_settings


@click.command()
@click.argument("versions", type=options.VERSION, nargs=-1)
@click.option("--key", type=options.FILE, help="Private Ed25519 key in PEM.")
@click.option(
    "--generate",
    type=options.NEW_FILE,
    metavar="FILE",
    help="Make a key pair instead: the private key in FILE, the public one in FILE.pub.",
)
@options.artifacts_option
def sign(
    versions: tuple[str, ...], key: Path | None, generate: Path | None, artifacts: Path | None
) -> None:
    """Sign artifacts, so that others can check that they are yours.

    The signature is over the model card, which holds the hashes of all other files.

    \b
    Example: carlarl sign --generate ~/carlarl.pem
    Example: carlarl sign v0.2.0 --key ~/carlarl.pem
    """
    with options.extra("convert"):
        from converters.artifact import artifact, signature

    if (key is None) == (generate is None) or bool(versions) != (generate is None):
        raise click.UsageError("give VERSIONS and --key FILE, or --generate FILE alone")
    if generate is not None:
        public = signature.generate(generate)
        click.echo(f"{generate}: private key, keep it safe; {public}: public key, give it away")
        return
    assert key is not None  # checked above
    private = signature.private_key(key)
    source = read_settings(artifact_dir=artifacts).artifact_dir
    for version in versions:
        card, _ = artifact.read_card(source / version)
        artifact.verified_files(source / version, card)
        click.echo(f"{signature.sign(source / version, private)}: written")
