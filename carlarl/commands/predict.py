"""`carlarl predict`: ask a running gateway for an action."""

import json
import math
from collections.abc import Sequence
from typing import Any

import click

from carlarl.commands import options


@click.command()
@click.option(
    "--field",
    "fields",
    metavar="NAME=VALUE",
    multiple=True,
    help="One part of the observation: a number, numbers separated by commas, or JSON. A part of a "
    "part has both names, joined by a dot.",
)
@click.option("--observation", metavar="JSON", help="The observation, of whatever form.")
@click.option("--speed", type=float, help="km/h, 0 to 200: as --field speed=NUMBER.")
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
@click.option("--policy-actions", is_flag=True, help="Also give the action in the policy's space.")
@options.url_option
@options.api_key_option
@options.json_option
def predict(
    fields: tuple[str, ...],
    observation: str | None,
    speed: float | None,
    steering: float | None,
    sensors: str | None,
    file: Any,
    deterministic: bool | None,
    seed: int | None,
    version: str | None,
    policy_actions: bool,
    url: str | None,
    api_key: str | None,
    as_json: bool,
) -> None:
    """Ask the gateway for the action of an observation.

    What the active policy takes is in /metadata: `exampleObservation`.

    \b
    Example: carlarl predict --speed 25.5 --steering 0.1 --sensors 0.8,0.2,0.5,0.9,0.1
    Example: carlarl predict --field speed=25.5 --field camera.front=0.1,0.9
    Example: carlarl predict --observation '[0.1, 0.2, 0.3]'
    """
    named = {"speed": speed, "steering": steering, "sensors": sensors and f"{sensors},"}
    parts = [f"{name}={value}" for name, value in named.items() if value is not None]
    if sum(map(bool, (fields or parts, observation is not None, file))) != 1:
        raise click.UsageError("give --field (or --speed and so on), --observation, or --file")
    if fields or parts:
        request: dict[str, Any] = {"observations": [_observation([*parts, *fields])]}
    elif file is None:
        request = {"observations": [_json(observation or "", "--observation")]}
    else:
        content = _json(file.read(), "--file")
        whole = isinstance(content, dict) and "observations" in content
        request = content if whole else {"observations": [content]}
    if deterministic is not None or "deterministic" not in request:
        request["deterministic"] = deterministic if deterministic is not None else seed is None
    more = {"seed": seed, "version": version, "policyActions": policy_actions or None}
    request |= {name: value for name, value in more.items() if value is not None}
    answer = options.call_gateway(url, "/predict", api_key, request)
    if as_json:
        click.echo(json.dumps(answer))
        return
    own = answer.get("policyActions", [])
    for index, action in enumerate(answer["actions"]):
        told = [_told(action)] + [f"policy {json.dumps(one)}" for one in own[index : index + 1]]
        click.echo("  ".join(told))
    seeded = "" if "seed" not in answer else f", seed {answer['seed']}"
    click.echo(f"{answer['version']}, {answer['timingMs']:.2f} ms{seeded}", err=True)


def _told(action: Any) -> str:
    if not isinstance(action, dict):
        return json.dumps(action)
    switches = {True: "on", False: "off"}
    return "  ".join(
        f"{name} {switches[value] if isinstance(value, bool) else format(value, '+.4f')}"
        for name, value in action.items()
    )


def _observation(fields: Sequence[str]) -> dict[str, Any]:
    observation: dict[str, Any] = {}
    for field in fields:
        path, equals, text = field.partition("=")
        *outer, name = path.split(".")
        if not equals:
            raise click.UsageError(f"--field {field}: give NAME=VALUE")
        part = observation
        for key in outer:
            part = part.setdefault(key, {})
            if not isinstance(part, dict):
                raise click.UsageError(f"--field {path}: {key} has a value of its own")
        numbers = text[:1] not in tuple('[{"') and "," in text
        part[name] = _json(f"[{text.removesuffix(',')}]" if numbers else text, f"--field {path}")
    return observation


def _json(text: str, flag: str) -> Any:
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{flag}: no JSON: {error}") from None


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is not finite")
    return number
