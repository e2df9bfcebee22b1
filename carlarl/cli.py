"""The command line `carlarl`. Each command imports what it needs when it runs."""

from __future__ import annotations

import sys
from typing import Any

import click

from carlarl.commands.bench import bench
from carlarl.commands.config import config
from carlarl.commands.drive import drive
from carlarl.commands.export import export
from carlarl.commands.import_sb3 import import_sb3
from carlarl.commands.import_torchscript import import_torchscript
from carlarl.commands.keys import keys
from carlarl.commands.load import load
from carlarl.commands.predict import predict
from carlarl.commands.promote import promote
from carlarl.commands.remove import remove
from carlarl.commands.rollback import rollback
from carlarl.commands.serve import serve
from carlarl.commands.sign import sign
from carlarl.commands.tune import tune
from carlarl.commands.unload import unload
from carlarl.commands.validate import validate
from carlarl.commands.versions import versions
from carlarl.commands.warmup import warmup
from carlarl.errors import CommandError
from converters.errors import ConversionError
from gateway.config.settings import SettingsError


def main() -> None:
    """Run the command line. Exit with status 0, with 1 for a failure, or with 2 for bad use."""
    try:
        cli(standalone_mode=False)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)


class Commands(click.Group):
    """The one place where an error of another folder becomes a line for the user."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except _errors_of_other_folders() as error:
            raise CommandError(str(error)) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, each with the whole first sentence of its help."""
        rows = [(name, one.get_short_help_str(999)) for name, one in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _errors_of_other_folders() -> tuple[type[Exception], ...]:
    """Return their bases. That of `perf`, which is slow to import, only if it is imported."""
    generator = sys.modules.get("perf.load.generator")
    return ConversionError, SettingsError, *(() if generator is None else (generator.LoadError,))


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="carlarl")
def cli() -> None:
    """Serve trained driving policies: artifact → Triton model repository → JSON actions."""


for command in (
    bench,
    config,
    drive,
    export,
    import_sb3,
    import_torchscript,
    keys,
    load,
    predict,
    promote,
    remove,
    rollback,
    serve,
    sign,
    tune,
    unload,
    validate,
    versions,
    warmup,
):
    cli.add_command(command)
