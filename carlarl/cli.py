"""The command line `carlarl`. Each command imports what it needs when it runs."""

import sys
from importlib import import_module
from typing import Any

import click

from carlarl.errors import CommandError
from converters.errors import ConversionError
from gateway.config.settings import SettingsError

_COMMANDS = """
bench config drive export import_onnx import_sb3 import_torch import_torchscript keys load predict
promote remove rollback serve sign tune unload validate versions warmup
"""
"""Their modules, each of which has the command under its own name."""


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


for _name in _COMMANDS.split():
    cli.add_command(getattr(import_module(f"carlarl.commands.{_name}"), _name))
