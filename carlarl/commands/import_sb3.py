"""`carlarl import-sb3`: a policy of Stable-Baselines3 becomes an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from carlarl.commands.import_options import import_options, write_artifact
from carlarl.commands.options import FILE, NAMES, extra


@click.command("import-sb3")
@click.argument("policy", type=FILE)
@click.option("--vecnormalize", type=FILE, help="Statistics that VecNormalize.save wrote.")
@click.option("--layout", type=NAMES, help="The action's elements, e.g. steer,acceleration.")
@import_options("carla-ALGORITHM")
def import_sb3(policy: Path, **given: Any) -> None:
    """Make an artifact of a policy trained with Stable-Baselines3.

    It takes PPO, A2C, SAC or TD3 with MlpPolicy. Stable-Baselines3 opens POLICY and runs the code
    in it: import only a file that you trust.

    Example: carlarl import-sb3 policy.zip --vecnormalize vecnormalize.pkl --version v0.3.0
    """
    with extra("train"):
        from converters.importers.sb3 import import_sb3
    write_artifact(import_sb3, policy, **given)
