"""The parts of `/openapi.json` that FastAPI can't derive from the routes."""

from typing import Any

import msgspec

from gateway.api import codec
from gateway.api.errors import (
    DeadlineExceeded,
    GatewayError,
    InferenceFailed,
    ModelNotFound,
    PayloadTooLarge,
    ResourceExhausted,
    ServiceUnavailable,
    Unauthorized,
    UnsupportedMediaType,
    ValidationFailed,
)
from gateway.api.problems import JSON, MSGPACK
from gateway.api.request_head import DEADLINE, ECHO

Errors = tuple[type[GatewayError], ...]

READY_ERRORS: Errors = (ServiceUnavailable,)
METADATA_ERRORS: Errors = (Unauthorized, ServiceUnavailable)
VERSIONS_ERRORS: Errors = (*METADATA_ERRORS, InferenceFailed, DeadlineExceeded)
WARMUP_ERRORS: Errors = (
    *VERSIONS_ERRORS,
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationFailed,
    ResourceExhausted,
)
PREDICT_ERRORS: Errors = (*WARMUP_ERRORS, ModelNotFound)

_REF = "#/components/schemas/{name}"
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
_MODELS = (
    codec.codec_of(None).request,
    codec.PredictAnswer,
    codec.WarmupRequest,
    codec.ErrorEnvelope,
)
_ECHO = {
    "name": ECHO,
    "in": "header",
    "required": False,
    "description": "Comes back on the answer as it went: so a caller knows whose answer it has.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
}
INFO: dict[str, Any] = {"title": "CarlaRL Policy-as-a-Service", "description": _DESCRIPTION.strip()}


def error_responses(errors: Errors) -> dict[int | str, dict[str, Any]]:
    """Describe the answers for `errors`, and for an unexpected error."""
    described: dict[int | str, dict[str, Any]] = {
        error.status: _response(error.code, error.__doc__ or "") for error in errors
    }
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
    schema = {"schema": {"$ref": _REF.format(name=model.__name__)}}
    return {JSON: schema, MSGPACK: schema}


def complete(document: dict[str, Any], api_keys: bool) -> dict[str, Any]:
    """Add the schemas of bodies to FastAPI's document and, with `api_keys`, how to send a key."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    _, described = msgspec.json.schema_components(_MODELS, ref_template=_REF)
    schemas.update(described)
    schemas["PredictRequest"]["examples"] = [
        {"observations": [codec.EXAMPLE_OBSERVATION], "deterministic": True}
    ]
    if api_keys:
        components["securitySchemes"] = {
            "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            "bearer": {"type": "http", "scheme": "bearer"},
        }
        for path in document["paths"].values():
            for operation in path.values():
                if str(Unauthorized.status) in operation["responses"]:
                    operation["security"] = [{"apiKey": []}, {"bearer": []}]
    return document


def _response(code: str, meaning: str) -> dict[str, Any]:
    details: dict[str, Any] = {"request_id": "5f0c2a"}
    if code == ValidationFailed.code:
        details["validation_errors"] = [
            {
                "field": "observations.0.speed",
                "message": "Expected `float` <= 200.0",
                "type": "less_than_equal",
            }
        ]
    example = {"error": code, "message": meaning, "details": details, "timestamp": 1695825600.0}
    schema = {"$ref": _REF.format(name=codec.ErrorEnvelope.__name__)}
    return {
        "description": f"`{code}`: {meaning}",
        "content": {JSON: {"schema": schema, "example": example}},
    }
