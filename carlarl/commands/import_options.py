"""What the import commands share: their options, and how they write an artifact."""

import json
import shlex
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from carlarl.commands import options
from carlarl.errors import CommandError
from gateway.config.settings import read_settings

_YAML = ("table", "axes", "spec", "env_arguments", "arguments", "metrics")


def signature_options(fields: str) -> options.Decorator:
    """Make the options that say what an observation and an action are; `fields` is a help text."""
    return options.together(
        click.option("--fields", type=options.NAMES, help=fields),
        click.option(
            "--layout",
            type=options.NAMES,
            help="The elements of an action that is a Box: throttle,brake,steer or "
            "steer,acceleration, in any order.",
        ),
        click.option(
            "--table",
            metavar="FILE|YAML",
            help="A control for each value of a Discrete action: [{throttle: 1}, {steer: -0.5}].",
        ),
        click.option(
            "--axes",
            metavar="FILE|YAML",
            help="Values for each branch of a MultiDiscrete action: {steer: [-1, 0, 1]}.",
        ),
        click.option(
            "--scale",
            type=click.Choice(["linear", "clip"]),
            help="How an element of --layout comes into the control's range, where its own is "
            "another.",
        ),
        click.option("--repeat", type=click.IntRange(1), help="Steps for which an action holds."),
    )


def declared_options(name: str) -> options.Decorator:
    """Make the options of importers that must be told what a program's inputs and outputs are."""
    return options.together(
        signature_options(
            "Names for the features: NAME is one number, NAME:WIDTH a list; vector:WIDTH is a list "
            "alone."
        ),
        click.option(
            "--spec",
            metavar="FILE|YAML",
            help="observation_space and action_space of a card, and its control, instead of the "
            "options for these; state: of a policy with a memory.",
        ),
        click.option(
            "--env",
            metavar="MODULE:CLASS|ID",
            help="A Gymnasium environment whose spaces are the policy's: a class, a function that "
            "makes one, or what gymnasium.make takes. Its code runs.",
        ),
        click.option(
            "--env-arguments", metavar="FILE|YAML", help="The environment's arguments: {lanes: 3}."
        ),
        click.option(
            "--distribution",
            type=click.Choice(
                ["gaussian", "deterministic", "beta", "categorical", "q-values", "bernoulli"]
            ),
            help="What the outputs are: gaussian takes mean and standard deviation, beta takes "
            "alpha and beta, each other one output. [default: as the action space and the number "
            "of outputs say]",
        ),
        click.option(
            "--beta",
            type=click.Choice(["mode", "mean"]),
            help="What of a Beta distribution is the action. [default: mode]",
        ),
        click.option(
            "--squash",
            type=click.Choice(["clip", "tanh"]),
            default="clip",
            show_default=True,
            help="How the mean is brought into the action's range.",
        ),
        click.option(
            "--second-output",
            type=click.Choice(["std", "log-std", "ignore"]),
            help="What the second of two outputs is. Of a Box it must be named, here or by "
            "--distribution.",
        ),
        click.option(
            "--preprocessor",
            type=options.FILE,
            help="Pickle of a scaler, pipeline or VecNormalize.",
        ),
        import_options(name),
    )


def import_options(name: str) -> options.Decorator:
    """Make the options of every importer: the version, what the card says, and the folder."""
    return options.together(
        click.option(
            "--version", type=options.VERSION, required=True, help="The new artifact's version."
        ),
        click.option("--name", help=f"model_name in the card. [default: {name}]"),
        click.option("--description", default="", help="One sentence for the card."),
        click.option(
            "--metrics",
            metavar="FILE|YAML",
            help="Performance metrics for the card: {return: 9.5}.",
        ),
        click.option(
            "--observations",
            type=options.FILE,
            help="Recorded observations, which exports are compared on: .npy, or .npz with an "
            "array for each part, like camera.front.",
        ),
        options.artifacts_option,
        options.json_option,
    )


def write_artifact(
    convert: Callable[..., Path],
    policy: Path,
    *,
    version: str,
    artifacts: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Write the artifact that `convert` makes of `policy`, and tell the user what it took it for.

    What `given` has of `_YAML` are files of YAML, or YAML itself.
    """
    from converters.artifact.artifact import read_card

    for name in _YAML:
        if (text := given.get(name)) is not None:
            given[name] = _yaml(f"--{name.replace('_', '-')}", text)
    if given.get("env") is not None:
        with options.extra("drive"):
            import gymnasium  # noqa: F401 # a missing one is told here
    target = read_settings(artifact_dir=artifacts).artifact_dir
    if artifacts is None and not target.is_dir():
        raise CommandError(f"{target}: no such folder: say --artifacts {target} to make it")
    notes: list[str] = []
    with redirect_stdout(sys.stderr):  # what the user's code prints: the output may be JSON
        folder = convert(policy, version, target, tell=notes.append, **given)
    card, _ = read_card(folder)
    if as_json:
        told = card.signature.to_data() | {"model_type": card.model_type}
        click.echo(json.dumps({"artifact": str(folder), **told, "notes": notes}))
        return
    _show(card.signature, notes)
    export = f"carlarl export --version {version}"
    export += "" if artifacts is None else f" --artifacts {shlex.quote(str(artifacts))}"
    click.echo(f"{folder}: written; `{export}` puts it into the repository")


def _yaml(flag: str, text: str) -> Any:
    """Read a file of YAML, or a text that is YAML because it begins with a bracket."""
    from converters.artifact.card import parse_yaml, read_bytes

    if text.lstrip()[:1] in ("[", "{"):
        return parse_yaml(text.encode("utf-8", "surrogateescape"), Path(flag))
    found = parse_yaml(read_bytes(Path(text)), Path(text))
    if found is None:
        raise CommandError(f"{flag}: {text} is empty")
    return found


def _show(signature: Any, notes: list[str]) -> None:
    """Print what observation, action and control are."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from converters.importers.interface import described

    table = Table("", "name", "type", "range", "unit")
    for row in described(signature):
        table.add_row(*map(escape, row))
    Console().print(table)
    for note in notes:
        click.echo(f"note: {note}")
