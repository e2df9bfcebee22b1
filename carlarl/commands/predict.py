"""`carlarl predict`: ask a running gateway for an action."""

from __future__ import annotations

import json
import math
from typing import Any

import click

from carlarl.commands import options


@click.command()
@click.option("--speed", type=float, help="km/h, 0 to 200.")
@click.option("--steering", type=float, help="-1 (full left) to 1 (full right).")
@click.option("--sensors", help="Numbers separated by commas, as many as the policy takes.")
@click.option(
    "--file",
    type=click.File(),
    help="JSON instead of flags: one observation, or a whole request. - is standard input.",
)
@click.option(
    "--deterministic/--stochastic",
    default=None,
    help="[default: --deterministic; with --seed, --stochastic]",
)
@click.option("--seed", type=int, help="Repeats a stochastic action.")
@click.option("--version", type=options.VERSION, help="[default: the active one]")
@options.url_option
@options.api_key_option
@options.json_option
def predict(
    speed: float | None,
    steering: float | None,
    sensors: str | None,
    file: Any,
    deterministic: bool | None,
    seed: int | None,
    version: str | None,
    url: str | None,
    api_key: str | None,
    as_json: bool,
) -> None:
    """Ask the gateway for the action of an observation.

    Example: carlarl predict --speed 25.5 --steering 0.1 --sensors 0.8,0.2,0.5,0.9,0.1
    """
    if file is None:
        request: dict[str, Any] = {"observations": [_observation(speed, steering, sensors)]}
    elif (speed, steering, sensors) == (None, None, None):
        request = _request(file)
    else:
        raise click.UsageError("--file takes the place of --speed, --steering and --sensors")
    if deterministic is not None or "deterministic" not in request:
        request["deterministic"] = deterministic if deterministic is not None else seed is None
    request |= {k: v for k, v in (("seed", seed), ("version", version)) if v is not None}
    answer = options.call_gateway(url, "/predict", api_key, request)
    if as_json:
        click.echo(json.dumps(answer))
        return
    for action in answer["actions"]:
        click.echo("  ".join(f"{name} {value:+.4f}" for name, value in action.items()))
    seeded = "" if "seed" not in answer else f", seed {answer['seed']}"
    click.echo(f"{answer['version']}, {answer['timingMs']:.2f} ms{seeded}", err=True)


def _observation(
    speed: float | None, steering: float | None, sensors: str | None
) -> dict[str, Any]:
    if speed is None or steering is None or sensors is None:
        raise click.UsageError("give --speed, --steering and --sensors, or --file")
    try:
        values = [float(part) for part in sensors.split(",")]
    except ValueError:
        raise click.UsageError(f"--sensors: {sensors!r} are no numbers") from None
    if not all(map(math.isfinite, (speed, steering, *values))):
        raise click.UsageError("--speed, --steering and --sensors must be finite")
    return {"speed": speed, "steering": steering, "sensors": values}


def _request(file: Any) -> dict[str, Any]:
    try:
        content = json.load(file)
    except ValueError as error:
        raise click.UsageError(f"--file: no JSON: {error}") from None
    if not isinstance(content, dict):
        raise click.UsageError("--file: give one observation or a request, as a JSON object")
    return content if "observations" in content else {"observations": [content]}
