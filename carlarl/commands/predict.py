"""`carlarl predict`: ask a running gateway for an action."""

import base64
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from carlarl.commands import options
from policy_spec.images import fault, format_of
from policy_spec.leaves import leaves
from policy_spec.parsing import parse_space
from policy_spec.validate import takes_images


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
    "--image",
    "images",
    metavar="LEAF=FILE",
    multiple=True,
    help="A PNG or JPEG in the place of the observation's leaf LEAF, like camera.front; FILE alone "
    "where the whole observation is an image. The rest is as the other options say, or else the "
    "active version's example observation.",
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
    images: tuple[str, ...],
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
    Example: carlarl predict --field speed=25.5 --image camera.front=front.png
    """
    named = {"speed": speed, "steering": steering, "sensors": sensors and f"{sensors},"}
    parts = [f"{name}={value}" for name, value in named.items() if value is not None]
    given = sum(map(bool, (fields or parts, observation is not None, file)))
    if given > 1 or not (given or images):
        raise click.UsageError(
            "give --field (or --speed and so on), --observation, or --file; or --image alone"
        )
    if fields or parts:
        request: dict[str, Any] = {"observations": [_observation([*parts, *fields])]}
    elif observation is not None:
        request = {"observations": [_json(observation, "--observation")]}
    elif file is not None:
        content = _json(file.read(), "--file")
        whole = isinstance(content, dict) and "observations" in content
        request = content if whole else {"observations": [content]}
    else:
        request = {}
    if images:
        metadata = options.call_gateway(url, "/metadata", api_key, method="GET")
        if version not in (None, metadata["version"]):
            raise click.UsageError(
                f"--image: the active version alone decodes files, and that is "
                f"{metadata['version']}: promote {version}, or leave --version away"
            )
        seen = request.setdefault("observations", [metadata["exampleObservation"]])
        if not isinstance(seen, list) or len(seen) != 1:
            raise click.UsageError("--image: --file must have one observation")
        for image in images:
            path, form = _image(image, metadata)
            seen[0] = _put(seen[0], path, form, f"--image {image}")
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
        if not equals:
            raise click.UsageError(f"--field {field}: give NAME=VALUE")
        numbers = False
        if text[:1] not in tuple('[{"'):
            numbers, text = "," in text, re.sub(r"(?<![\w.])\.(?=\d)", "0.", text)
        value = _json(f"[{text.removesuffix(',')}]" if numbers else text, f"--field {path}")
        _put(observation, path.split("."), value, f"--field {path}")
    return observation


def _image(text: str, metadata: dict[str, Any]) -> tuple[Sequence[str], dict[str, str]]:
    """Read the file of `--image`; return the path of its leaf, and its form in JSON."""
    space = parse_space(metadata["observationSpace"], "observationSpace")
    found = {".".join(leaf.path): leaf for leaf in leaves(space)}
    takers = ", ".join(name for name, leaf in found.items() if takes_images(leaf.space))
    name, equals, file = ("", "=", text) if "" in found else text.partition("=")
    leaf = found.get(name)
    if not equals:
        wrong: str | None = f"give LEAF=FILE, where LEAF is one of: {takers}"
    elif leaf is None:
        wrong = f"{metadata['version']} has no leaf {name}; these take images: {takers or 'none'}"
    elif not takes_images(leaf.space):
        wrong = f"{name or 'the observation'} takes no image; these do: {takers or 'none'}"
    else:
        try:
            content = Path(file).read_bytes()
        except OSError as error:
            wrong = f"{file}: {error.strerror}"
        else:
            if (wrong := fault(leaf.space.shape, content)) is None:
                encoded = base64.b64encode(content).decode()
                return leaf.path, {format_of(content) or "": encoded}
    raise click.UsageError(f"--image {text}: {wrong}")


def _put(whole: Any, path: Sequence[str], value: Any, flag: str) -> Any:
    """Return an observation with a value at a path, and the objects on the way to it."""
    if not path:
        return value
    key, *rest = path
    if isinstance(whole, dict):
        whole[key] = _put(whole.get(key, {}), rest, value, flag)
    elif isinstance(whole, list) and key.isdecimal() and int(key) < len(whole):
        whole[int(key)] = _put(whole[int(key)], rest, value, flag)
    else:
        raise click.UsageError(f"{flag}: there is no place for {key}")
    return whole


def _json(text: str, flag: str) -> Any:
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{flag}: no JSON: {error}") from None


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is not finite")
    return number
