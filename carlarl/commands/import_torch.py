"""`carlarl import-torch`: a module of PyTorch, of one's own class, becomes an artifact."""

from pathlib import Path
from typing import Any

import click

from carlarl.commands.import_options import declared_options, write_artifact
from carlarl.commands.options import FILE, NAMES, extra


@click.command("import-torch")
@click.argument("module", metavar="MODULE:ATTRIBUTE")
@click.option(
    "--checkpoint",
    type=FILE,
    multiple=True,
    help="The weights: a state dict, or what has one in it. Several are an ensemble: the mixture "
    "of their policies.",
)
@click.option("--key", metavar="NAME", help="The weights in a checkpoint, where several fit.")
@click.option(
    "--arguments",
    metavar="FILE|YAML",
    help="The class's or the function's arguments: {hidden: 64}.",
)
@click.option(
    "--method",
    type=NAMES,
    help="The method or submodule that is called in place of the module; of several one after the "
    "other.",
)
@click.option(
    "--log-std",
    metavar="NAME",
    help="The parameter that has the logarithm of the standard deviation, or the submodule that "
    "gives it of what the last method takes.",
)
@click.option(
    "--channels-first",
    is_flag=True,
    help="The network takes images with the channels first, and callers send them last.",
)
@click.option("--scale-images", is_flag=True, help="The network takes uint8 images divided by 255.")
@declared_options("carla-torchscript")
def import_torch(module: str, **given: Any) -> None:
    """Make an artifact of a PyTorch module of your own class.

    MODULE:ATTRIBUTE is a class, a function that returns a module, or a module; Python imports it
    from the working directory too. It is called with a batch of observations, and gives what
    --distribution says. An argument named env, envs, observation_space or action_space is filled
    from --env. The code runs now and is traced: serving needs it no more.

    Example: carlarl import-torch ppo_continuous_action:Agent --checkpoint agent.pt --version v0.3.0
    --env Pendulum-v1 --method actor_mean --log-std actor_logstd
    """
    with extra("convert"):
        from converters.importers.torch_module import import_torch
    write_artifact(import_torch, Path(module), **given)
