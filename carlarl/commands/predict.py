"""Commands that ask a running gateway."""

from __future__ import annotations

import json
import math
from typing import Any

import click

from carlarl.commands.options import (
    Failure,
    Version,
    api_key_option,
    gateway_url,
    json_option,
    url_option,
)


@click.command()
@click.option("--speed", type=float, help="km/h, 0 to 200.")
@click.option("--steering", type=float, help="-1 (full left) to 1 (full right).")
@click.option("--sensors", help="Numbers separated by commas, as many as the policy takes.")
@click.option(
    "--file",
    type=click.File(),
    help="JSON instead of flags: one observation, or a whole request. - is standard input.",
)
@click.option("--deterministic/--stochastic", default=None, help="[default: --deterministic]")
@click.option("--seed", type=int, help="Repeats a stochastic action.")
@click.option("--version", type=Version(), help="[default: the active one]")
@url_option
@api_key_option
@json_option
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
    if file is not None:
        if (speed, steering, sensors) != (None, None, None):
            raise click.UsageError("--file takes the place of --speed, --steering and --sensors")
        try:
            content = json.load(file)
        except ValueError as error:
            raise click.UsageError(f"--file: no JSON: {error}") from None
        if not isinstance(content, dict):
            raise click.UsageError("--file: give one observation or a request, as a JSON object")
        request = content if "observations" in content else {"observations": [content]}
    else:
        if speed is None or steering is None or sensors is None:
            raise click.UsageError("give --speed, --steering and --sensors, or --file")
        try:
            values = [float(part) for part in sensors.split(",")]
        except ValueError:
            raise click.UsageError(f"--sensors: {sensors!r} are no numbers") from None
        if not all(map(math.isfinite, (speed, steering, *values))):
            raise click.UsageError("--speed, --steering and --sensors must be finite")
        observation = {"speed": speed, "steering": steering, "sensors": values}
        request = {"observations": [observation]}
    if deterministic is not None or "deterministic" not in request:
        request["deterministic"] = deterministic if deterministic is not None else seed is None
    request |= {k: v for k, v in (("seed", seed), ("version", version)) if v is not None}
    answer = _call(url, "POST", "/predict", api_key, request)
    if as_json:
        click.echo(json.dumps(answer))
        return
    for action in answer["actions"]:
        click.echo("  ".join(f"{name} {value:+.4f}" for name, value in action.items()))
    seeded = "" if "seed" not in answer else f", seed {answer['seed']}"
    click.echo(f"{answer['version']}, {answer['timingMs']:.2f} ms{seeded}", err=True)


@click.command()
@url_option
@api_key_option
@json_option
def warmup(url: str | None, api_key: str | None, as_json: bool) -> None:
    """Run the active version a few times, so that the next request is fast.

    Example: carlarl warmup
    """
    answer = _call(url, "POST", "/warmup", api_key)
    click.echo(
        json.dumps(answer)
        if as_json
        else f"{answer['status']} in {answer['timingMs']:.1f} ms on {answer['device']}"
    )


def _call(
    url: str | None, method: str, path: str, api_key: str | None, body: Any = None
) -> dict[str, Any]:
    import httpx

    base = gateway_url(url)
    headers = {} if api_key is None else {"X-API-Key": api_key}
    no_proxy: dict[str, None] = {base: None} if url is None else {}
    try:
        with httpx.Client(headers=headers, timeout=30, mounts=no_proxy) as client:
            answer = client.request(method, base + path, json=body)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise Failure(f"{base}: no answer ({error}); is `carlarl serve` running?") from None
    try:
        content: dict[str, Any] = answer.json()
    except ValueError:
        raise Failure(f"{base}{path}: status {answer.status_code}, and no JSON") from None
    if not isinstance(content, dict) or (answer.is_error and "message" not in content):
        raise Failure(f"{base}{path}: status {answer.status_code}: no gateway of CarlaRL answers")
    if answer.is_error:
        problems = content.get("details", {}).get("validation_errors", [])
        detail = "".join(f"\n  {problem['field']}: {problem['message']}" for problem in problems)
        raise Failure(f"{content.get('error')}: {content.get('message')}{detail}")
    return content


COMMANDS = (predict, warmup)
