"""`/asyncapi.json`: the description of `/stream`, made from the models that check its frames."""

from typing import Any

import msgspec

from gateway.api.codec import codec_of, step_type
from gateway.api.messages import Observation, StepAnswer, StepError, StepSkipped
from gateway.api.openapi import fill
from gateway.api.paths import STREAM
from gateway.api.request_head import DEADLINE
from policy_spec.signature import Signature

SUBPROTOCOLS = ("carlarl.v1", "carlarl.v1.msgpack")
KEY_PREFIX = "carlarl.key."
"""A browser can set no header: it offers this prefix and its API key as a subprotocol."""

_REF = "#/components/schemas/{name}"
_DESCRIPTION = """
Control streams: one connection for each vehicle, one frame for each step, exactly one frame back.
Of several observations that wait, the latest wins. A text frame holds JSON and is answered in
JSON, a binary frame holds the same fields in msgpack and is answered in msgpack. Errors, bounds
and actions are those of `POST /predict` (see `/openapi.json`); the connection goes on after an
error.

The upgrade is refused with 401 without a valid API key, where keys are asked for, and with 403 to
pages of an origin that is not allowed. Browsers, which can set no header, offer the key as a
subprotocol, `carlarl.key.KEY`.

Close codes: 1001, the gateway is stopping: connect again; 1007, a text frame is not UTF-8; 1008,
answers are not read, a message comes too slowly, too many frames get no action (steps, fragments
and control frames), or the API key is not known any more; 1009, a frame is larger than a step's
observation needs; 1011, the connection failed.
"""
_ANSWERS: dict[str, Any] = {
    "answer": StepAnswer,
    "skipped": StepSkipped,
    "error": StepError,
}
_MODELS: dict[str, Any] = {"step": step_type(Observation), **_ANSWERS}


def document(version: str, api_keys: bool, signature: Signature | None) -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document of a gateway of that version.

    Observations and actions are those of `signature`, the active policy's.
    """
    components: dict[str, Any] = {"schemas": _schemas(signature), "messages": _messages()}
    server: dict[str, Any] = {"host": "localhost:8080", "protocol": "ws"}
    if api_keys:
        components["securitySchemes"] = {
            "apiKey": {"type": "httpApiKey", "in": "header", "name": "X-API-Key"},
            "bearer": {"type": "http", "scheme": "bearer"},
        }
        server["security"] = [
            {"$ref": f"#/components/securitySchemes/{name}"} for name in ("apiKey", "bearer")
        ]
    channel = {"$ref": "#/channels/stream"}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "CarlaRL Policy-as-a-Service",
            "version": version,
            "description": _DESCRIPTION,
        },
        "defaultContentType": "application/json",
        "servers": {"gateway": server},
        "channels": {
            "stream": {
                "address": STREAM,
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _MODELS},
                "bindings": {
                    "ws": {"method": "GET", "headers": _headers(), "bindingVersion": "0.1.0"}
                },
            }
        },
        "operations": {
            "act": {
                "action": "receive",
                "summary": "One step of a vehicle.",
                "channel": channel,
                "messages": [{"$ref": "#/channels/stream/messages/step"}],
                "reply": {
                    "channel": channel,
                    "messages": [
                        {"$ref": f"#/channels/stream/messages/{name}"} for name in _ANSWERS
                    ],
                },
            }
        },
        "components": components,
    }


def _messages() -> dict[str, Any]:
    return {
        name: {
            "name": name,
            "summary": model.__doc__,
            "payload": {"$ref": _REF.format(name=model.__name__)},
        }
        for name, model in _MODELS.items()
    }


def _schemas(signature: Signature | None) -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components(_MODELS.values(), ref_template=_REF)
    fill(schemas, signature)
    if signature is not None:
        observation = codec_of(signature.observation_space).example
        step = {"stepId": 17, "observation": observation, "deterministic": True}
        schemas["StepRequest"]["examples"] = [step]
    return schemas


def _headers() -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "Sec-WebSocket-Protocol": {
                "type": "string",
                "description": f"{' or '.join(SUBPROTOCOLS)}: the first that is offered is chosen, "
                f"none where none is; beside it {KEY_PREFIX}KEY.",
            },
            DEADLINE: {
                "type": "integer",
                "minimum": 1,
                "maximum": 999_999_999,
                "description": "Milliseconds from a step's arrival after which the vehicle has no "
                "use for its answer; the service's own limit holds where that is sooner.",
            },
        },
    }
