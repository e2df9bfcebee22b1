"""What an answer must be; anything else is an outage."""

from __future__ import annotations

import json
import math
import time
from email.utils import parsedate_to_datetime
from typing import Any, Iterable, Mapping, NamedTuple

from carlarl_client._core import Try
from carlarl_client._spaces import Described, number, own_action
from carlarl_client.errors import BY_CODE, BadAnswer, ConnectionFailed, PolicyError
from carlarl_client.types import Action, Prediction

RANGES = {"throttle": (0.0, 1.0), "brake": (0.0, 1.0), "steer": (-1.0, 1.0)}
SWITCHES = ("reverse", "hand_brake")

Headers = Iterable["tuple[bytes, bytes]"]


class Answer(NamedTuple):
    """What the service said, and by which name its log knows the request."""

    content: dict[str, Any]
    request_id: str


def check_whose(headers: Headers, held: bytes, tried: Try) -> None:
    """Raise ConnectionFailed where an answer is not that of its own request.

    `held` is what was not sent yet when the answer was there.
    """
    others = [value for name, value in headers if name.lower() == b"x-carlarl-echo"]
    if held or any(value != tried.token.encode() for value in others):
        raise ConnectionFailed(
            f"{tried.url}: an answer to another request came",
            request_id=tried.token,
            unsent=bool(held),
        )


def read(status: int, headers: Headers, body: bytearray, tried: Try) -> Answer:
    """Read an answer. Raises PolicyError where it is an error, BadAnswer where it is neither."""
    named = {name.lower(): value.decode("latin-1") for name, value in headers}
    request_id = named.get(b"x-request-id", tried.token)
    retry_after_s = retry_after(named.get(b"retry-after"))
    try:
        content = json.loads(body, parse_constant=_refuse)
        if status == 200:
            return Answer(_of(dict, content), request_id)
        if status < 400:
            raise ValueError("neither an answer nor an error")
        code, message = _of(str, content["error"]), _of(str, content["message"])
        details = _of(dict, content["details"])
        request_id = _of(str, details.get("request_id", request_id))
    except (ValueError, KeyError, TypeError, RecursionError):
        text = body[:200].decode("utf-8", "replace")
        raise BadAnswer(
            f"{tried.url} answered {status} with something that is not from this API: {text!r}",
            status=status,
            request_id=request_id,
            retry_after_s=retry_after_s,
        ) from None
    raise BY_CODE.get(code, PolicyError)(
        message,
        code=code,
        request_id=request_id,
        status=status,
        details=details,
        retry_after_s=retry_after_s,
    )


def speaks_own(content: Mapping[str, Any]) -> bool:
    """Whether an answer has actions in the policy's own space, which `/metadata` describes."""
    actions = content.get("actions")
    own = type(actions) is list and len(actions) > 0 and type(actions[0]) is not dict
    return own or "policyActions" in content


def prediction(
    answer: Answer, asked: Mapping[str, Any], latency_ms: float, described: Described | None
) -> Prediction:
    """Read the answer of `/predict`. Raises BadAnswer where it is none, or to another question.

    `described` is what `/metadata` says of the version that answered, if it was asked.
    """
    content, rows = answer.content, len(asked["observations"])
    space = described and described.action
    try:
        actions: list[Any] = _of(list, content["actions"])
        if actions and type(actions[0]) is not dict:
            if described is not None and described.control:
                raise ValueError(f"{actions[0]!r} is no control")
            actions = [own_action(each, space) for each in actions]
        else:
            actions = [_action(each) for each in actions]
        own = None
        if asked.get("policyActions"):
            own = tuple(own_action(each, space) for each in _of(list, content["policyActions"]))
        states: tuple[str, ...] | None = None
        if "states" in content:
            states = tuple(_of(str, each) for each in _of(list, content["states"]))
        elif any(asked.get("states", ())):
            raise ValueError("states were sent, and none came")
        read = Prediction(
            actions=tuple(actions),
            version=_of(str, content["version"]),
            timing_ms=number(content["timingMs"], 0.0, 1e9),
            latency_ms=latency_ms,
            deterministic=_of(bool, content["deterministic"]),
            seed=None if asked["deterministic"] else _of(int, content["seed"]),
            request_id=answer.request_id,
            policy_actions=own,
            states=states,
        )
        for name, each in {"actions": actions, "policyActions": own, "states": states}.items():
            if each is not None and len(each) != rows:
                raise ValueError(f"{rows} observations were sent, {len(each)} {name} came")
        for name in ("version", "deterministic", *([] if read.deterministic else ["seed"])):
            if asked.get(name) not in (None, getattr(read, name)):
                raise ValueError(f"{name} is {content[name]!r}, asked for was {asked[name]!r}")
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise BadAnswer(
            f"the answer is no prediction: {repr(error)[:200]}",
            status=200,
            request_id=answer.request_id,
        ) from error
    return read


def _action(each: Any) -> Action:
    throttle, brake, steer = (number(_of(dict, each)[name], *RANGES[name]) for name in RANGES)
    reverse, hand_brake = (_of(bool, each.get(name, False)) for name in SWITCHES)
    return Action(throttle, brake, steer, reverse, hand_brake)


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def retry_after(value: str | None) -> float | None:
    """Read `Retry-After`, seconds or a date; None where there is none to be read."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (IndexError, OverflowError, TypeError, ValueError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None
