"""`carlarl validate`: check artifacts, the repository and the certificates."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from carlarl.commands import options
from carlarl.errors import CommandError
from gateway.config.settings import read_settings


@click.command()
@click.argument("versions", type=options.VERSION, nargs=-1)
@click.option(
    "--key",
    type=options.FILE,
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

    Each check is one line. A check that fails says what to do, and the exit status is then 1.

    \b
    Example: carlarl validate
    Example: carlarl validate v0.2.0 --key key.pem.pub --json
    """
    with options.extra("convert"):
        from converters.export import validation
        from converters.repository import certificate
    from rich.console import Console
    from rich.table import Table

    settings = read_settings(artifact_dir=artifacts, model_repository=repository)
    folders = settings.artifact_dir, settings.model_repository
    checks = []
    with Console(stderr=True).status("validate") as status:
        for check in validation.validate_all(
            versions, *folders, options.public_key(key), status.update
        ):
            checks.append(check)
            if not as_json:
                todo = f" → {check.todo}" if check.todo else ""
                mark = "✓" if check.ok else "✗"
                click.echo(f"{mark} {check.version} {check.check}: {check.found}{todo}")
    failed = sum(not check.ok for check in checks)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "checks": [asdict(check) for check in checks]}))
    else:
        table = Table(*certificate.COLUMNS, title="determinism certificate")
        for version in [one.version for one in checks if one.check == "certificate" and one.ok]:
            for line in certificate.lines(version, certificate.read(folders[1], version)):
                table.add_row(*line)
        if table.row_count:
            Console().print(table)
    if failed:
        raise CommandError(f"{failed} of {len(checks)} checks failed")
