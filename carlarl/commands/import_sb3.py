"""`carlarl import-sb3`: a policy of Stable-Baselines3 becomes an artifact."""

from pathlib import Path
from typing import Any

import click

from carlarl.commands.import_options import import_options, signature_options, write_artifact
from carlarl.commands.options import FILE, extra


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
@signature_options(
    "Names for the elements of a flat vector: NAME is one number, NAME:WIDTH a list, the last "
    "field takes the rest if it has no width. vector keeps the list."
)
@click.option(
    "--image-layout",
    type=click.Choice(["hwc", "chw"]),
    help="How callers send images: hwc is height × width × channels, chw has the channels first. "
    "[default: as the environment has them; hwc where POLICY does not tell]",
)
@click.option(
    "--frame-stack",
    type=click.IntRange(2),
    metavar="N",
    help="The policy was trained behind VecFrameStack of N frames. Callers send one frame.",
)
@click.option(
    "--channels-order",
    type=click.Choice(["first", "last"]),
    help="What VecFrameStack was told. [default: its own rule, the channels of an image, else the "
    "last dimension]",
)
@click.option(
    "--trust",
    metavar="MODULE",
    multiple=True,
    help="Import and run classes of this Python module, and of its submodules, that POLICY names: "
    "features extractors, activations, policies. Serving does not need them. May be repeated.",
)
@import_options("carla-ALGORITHM")
def import_sb3(policy: Path, **given: Any) -> None:
    """Make an artifact of a policy trained with Stable-Baselines3.

    It takes PPO, A2C, TRPO, MaskablePPO, RecurrentPPO, ARS, SAC, TQC, CrossQ, TD3, DDPG, DQN or
    QRDQN with any policy of Stable-Baselines3 1.6 and newer. Callers send images as they are: the
    artifact transposes and scales them as the policy did. The mask of MaskablePPO is the
    observation's part action_mask. Without --layout, --table or --axes an action is answered as the
    policy gives it.
    POLICY is read as data: code in it does not run, and other code only with --trust.

    Example: carlarl import-sb3 policy.zip --version v0.3.0 --fields speed,steering,sensors
    --layout throttle,brake,steer --vecnormalize vecnormalize.pkl
    """
    with extra("train"):
        from converters.importers.sb3 import import_sb3
    write_artifact(import_sb3, policy, **given)
