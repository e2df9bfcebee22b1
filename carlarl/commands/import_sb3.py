"""`carlarl import-sb3`: a policy of Stable-Baselines3 becomes an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from carlarl.commands.import_options import import_options, write_artifact
from carlarl.commands.options import FILE, NAMES, extra


class _Statistics(click.ParamType[Any]):
    """A file, or `none`."""

    name = "file|none"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return value if value == "none" else FILE.convert(value, param, ctx)


@click.command("import-sb3")
@click.argument("policy", type=FILE)
@click.option(
    "--vecnormalize",
    type=_Statistics(),
    help="Statistics that VecNormalize.save wrote; none: it saw the observations as they are.",
)
@click.option("--layout", type=NAMES, help="The action's elements, e.g. steer,acceleration.")
@import_options("carla-ALGORITHM")
def import_sb3(policy: Path, **given: Any) -> None:
    """Make an artifact of a policy trained with Stable-Baselines3.

    It takes PPO, A2C, SAC, TD3 or DDPG with MlpPolicy, saved by Stable-Baselines3 1.6 and newer.
    POLICY is read as data: code in it does not run.

    Example: carlarl import-sb3 policy.zip --vecnormalize vecnormalize.pkl --version v0.3.0
    """
    with extra("train"):
        from converters.importers.sb3 import import_sb3
    write_artifact(import_sb3, policy, **given)
