"""`/asyncapi.json` is AsyncAPI 3.0; that frames are as it says is tested wherever one is sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gateway.api.asyncapi import KEY_PREFIX, SUBPROTOCOLS, document
from gateway.api.paths import STREAM
from gateway.api.request_head import DEADLINE
from tests.gateway.driving import SIGNATURE

SCHEMA = json.loads(Path(__file__).with_name("asyncapi-3.0.0.json").read_text())
CHECK = jsonschema.Draft7Validator(SCHEMA)


@pytest.mark.parametrize("api_keys", [False, True])
def test_it_is_asyncapi(api_keys: bool) -> None:
    made = document("v0.2.0", api_keys, SIGNATURE)
    CHECK.validate(made)
    stream = made["channels"]["stream"]
    headers = stream["bindings"]["ws"]["headers"]["properties"]
    assert stream["address"] == STREAM
    assert list(headers) == ["Sec-WebSocket-Protocol", DEADLINE]
    assert all(name in str(headers) for name in (*SUBPROTOCOLS, KEY_PREFIX))
    found = list(references(made))
    assert found
    for reference in found:
        at: Any = made
        for name in reference.removeprefix("#/").split("/"):
            at = at[name]
    made["operations"]["act"]["action"] = "listen"
    assert not CHECK.is_valid(made)


def references(at: Any) -> Iterator[str]:
    if isinstance(at, dict):
        if isinstance(at.get("$ref"), str):
            yield at["$ref"]
        at = list(at.values())
    if isinstance(at, list):
        for each in at:
            yield from references(each)
