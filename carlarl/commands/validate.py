"""Commands that sign artifacts, and check what is there."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from carlarl.commands import options
from carlarl.commands.options import FILE, Failure, Version, extra, public_key, read


@click.command()
@click.argument("versions", type=Version(), nargs=-1)
@click.option("--key", type=FILE, help="Private Ed25519 key in PEM.")
@click.option(
    "--generate",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Make a key pair instead: the private key in FILE, the public one in FILE.pub.",
)
@options.artifacts_option
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
        from converters.artifact import artifact, signature
        from converters.artifact.card import ArtifactError

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


@click.command()
@click.argument("versions", type=Version(), nargs=-1)
@click.option(
    "--key",
    type=FILE,
    help="Public Ed25519 key that artifacts must be signed by. [default: $ARTIFACT_PUBLIC_KEY]",
)
@options.artifacts_option
@options.repository_option
@options.json_option
def validate(
    versions: tuple[str, ...],
    key: Path | None,
    artifacts: Path | None,
    repository: Path | None,
    as_json: bool,
) -> None:
    """Check artifacts, the repository against them, and the certificates.

    One line for each check, with what to do where it fails; then exit status 1.

    \b
    Example: carlarl validate
    Example: carlarl validate v0.2.0 --key key.pem.pub --json
    """
    with extra("convert"):
        from converters.artifact.card import ArtifactError
        from converters.export import validation
        from converters.repository import certificate
        from converters.repository.repository import RepositoryError
    from rich.console import Console
    from rich.table import Table

    settings = read(artifact_dir=artifacts, model_repository=repository)
    folders = settings.artifact_dir, settings.model_repository
    console = Console(stderr=True)
    checks = []
    try:
        with console.status("validate") as status:
            for check in validation.validate_all(
                versions, *folders, public_key(key), status.update
            ):
                checks.append(check)
                if not as_json:
                    todo = f" → {check.todo}" if check.todo else ""
                    mark = "✓" if check.ok else "✗"
                    click.echo(f"{mark} {check.version} {check.check}: {check.found}{todo}")
    except (ArtifactError, RepositoryError) as error:
        raise Failure(str(error)) from None
    failed = sum(not check.ok for check in checks)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "checks": [asdict(check) for check in checks]}))
    else:
        table = Table(*certificate.COLUMNS, title="determinism certificate")
        for version in [one.version for one in checks if one.check == "certificate" and one.ok]:
            for line in certificate.lines(version, certificate.read(folders[1], version)):
                table.add_row(*line.cells)
        if table.row_count:
            Console().print(table)
    if failed:
        raise Failure(f"{failed} of {len(checks)} checks failed")


COMMANDS = (sign, validate)
