"""The parts of `/openapi.json` that FastAPI can't derive from the routes."""

from typing import Any

import msgspec

from gateway.api import codec, errors, messages
from gateway.api.problems import JSON, MSGPACK
from gateway.api.request_head import DEADLINE, ECHO
from policy_spec.json_schema import action_schema, observation_schema, policy_action_schema
from policy_spec.signature import Signature

Errors = tuple[type[errors.GatewayError], ...]

READY_ERRORS: Errors = (errors.ServiceUnavailable,)
METADATA_ERRORS: Errors = (errors.Unauthorized, errors.ServiceUnavailable)
VERSIONS_ERRORS: Errors = (*METADATA_ERRORS, errors.InferenceFailed, errors.DeadlineExceeded)
WARMUP_ERRORS: Errors = (
    *VERSIONS_ERRORS,
    errors.PayloadTooLarge,
    errors.UnsupportedMediaType,
    errors.ValidationFailed,
    errors.ResourceExhausted,
)
PREDICT_ERRORS: Errors = (
    *WARMUP_ERRORS,
    errors.Unsupported,
    errors.ModelNotFound,
    errors.StateMismatch,
)

SCHEMA_REF = "#/components/schemas/{name}"
SECURITY_SCHEMES: dict[str, dict[str, str]] = {
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
"""How a key is sent."""
_DESCRIPTION = """
Actions of a trained reinforcement-learning driving policy for CARLA. Send observations to
`POST /predict`. Every error has the same envelope: a code, a message and details.
"""
_DEADLINE = {
    "name": DEADLINE,
    "in": "header",
    "required": False,
    "description": "Milliseconds from arrival after which the caller has no use for an answer; "
    "the service's own limit holds where that is sooner.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
}
REQUEST = codec.request_type(messages.Observation)
_MODELS = (
    REQUEST,
    messages.PredictAnswer,
    messages.WarmupRequest,
    messages.ErrorEnvelope,
)
_ECHO = {
    "name": ECHO,
    "in": "header",
    "required": False,
    "description": "Comes back on the answer as it went: so a caller knows whose answer it has.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
}
INFO: dict[str, Any] = {"title": "CarlaRL Policy-as-a-Service", "description": _DESCRIPTION.strip()}


def error_responses(kinds: Errors) -> dict[int | str, dict[str, Any]]:
    """Describe the answers for `kinds`, and for an unexpected error."""
    described: dict[int | str, dict[str, Any]] = {}
    for error in kinds:
        response = _response(error.code, error.__doc__ or "")
        if error.status in described:
            described[error.status]["description"] += f" {response['description']}"
        else:
            described[error.status] = response
    described[500] = _response("INTERNAL_ERROR", "Anything else.")
    return described


def request_body(model: type[msgspec.Struct], required: bool) -> dict[str, Any]:
    """Describe the body and the headers of a route that reads them by itself."""
    body = {"required": required, "content": _content(model)}
    return {"requestBody": body, "parameters": [_DEADLINE, _ECHO]}


def answer(model: type[msgspec.Struct], meaning: str) -> dict[int | str, dict[str, Any]]:
    """Describe the answer of a route that is answered without FastAPI."""
    return {200: {"description": meaning, "content": _content(model)}}


def _content(model: type[msgspec.Struct]) -> dict[str, Any]:
    schema = {"schema": {"$ref": SCHEMA_REF.format(name=model.__name__)}}
    return {JSON: schema, MSGPACK: schema}


def complete(
    document: dict[str, Any], api_keys: bool, signature: Signature | None
) -> dict[str, Any]:
    """Add the schemas of bodies to FastAPI's document and, with `api_keys`, how to send a key.

    Observations and actions are those of `signature`, the active version's.
    """
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    _, described = msgspec.json.schema_components(_MODELS, ref_template=SCHEMA_REF)
    schemas.update(described)
    fill(schemas, signature)
    if signature is not None:
        observation = codec.codec_of(signature.observation_space).example
        request = {"observations": [observation], "deterministic": True}
        schemas["PredictRequest"]["examples"] = [request]
    if api_keys:
        components["securitySchemes"] = SECURITY_SCHEMES
        for path in document["paths"].values():
            for operation in path.values():
                if str(errors.Unauthorized.status) in operation["responses"]:
                    operation["security"] = [{"apiKey": []}, {"bearer": []}]
    return document


def fill(schemas: dict[str, Any], signature: Signature | None) -> None:
    """Put in the schemas that differ from policy to policy; without one they are left open."""
    made: dict[str, Any] = {"Observation": {}, "Action": {}, "PolicyAction": {}}
    if signature is not None:
        made = {
            "Observation": observation_schema(signature.observation_space),
            "Action": action_schema(signature),
            "PolicyAction": policy_action_schema(signature.action_space),
        }
    for name, schema in made.items():
        about = schemas[name]
        schemas[name] = {"title": name, "description": about["description"], **schema}


def _response(code: str, meaning: str) -> dict[str, Any]:
    details: dict[str, Any] = {"request_id": "5f0c2a"}
    if code == errors.ValidationFailed.code:
        details["validation_errors"] = [
            {
                "field": "observations.0.speed",
                "message": "Expected `float` <= 200.0",
                "type": "less_than_equal",
            }
        ]
    example = {"error": code, "message": meaning, "details": details, "timestamp": 1695825600.0}
    schema = {"$ref": SCHEMA_REF.format(name=messages.ErrorEnvelope.__name__)}
    return {
        "description": f"`{code}`: {meaning}",
        "content": {JSON: {"schema": schema, "example": example}},
    }
