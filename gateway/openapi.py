"""What `/openapi.json` says beyond what FastAPI finds out by itself."""

from typing import Any

from pydantic import BaseModel

from gateway.deadline import HEADER
from gateway.errors import (
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
from gateway.schema import ErrorEnvelope, PredictRequest, WarmupRequest

BODY_ERRORS: tuple[type[GatewayError], ...] = (
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationFailed,
)
CALL_ERRORS: tuple[type[GatewayError], ...] = (
    ResourceExhausted,
    InferenceFailed,
    ServiceUnavailable,
    DeadlineExceeded,
)
PREDICT_ERRORS: tuple[type[GatewayError], ...] = (
    Unauthorized,
    ModelNotFound,
    *BODY_ERRORS,
    *CALL_ERRORS,
)
WARMUP_ERRORS: tuple[type[GatewayError], ...] = (Unauthorized, *BODY_ERRORS, *CALL_ERRORS)
METADATA_ERRORS: tuple[type[GatewayError], ...] = (Unauthorized, ServiceUnavailable)
VERSIONS_ERRORS: tuple[type[GatewayError], ...] = (
    Unauthorized,
    InferenceFailed,
    ServiceUnavailable,
    DeadlineExceeded,
)

_REF = "#/components/schemas/{model}"
_DESCRIPTION = """
Actions of a trained reinforcement-learning driving policy for CARLA. Send observations to
`POST /predict`. Every error has the same envelope: a code, a message and details.
"""
_DEADLINE = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "Milliseconds from arrival after which the caller has no use for an answer; "
    "the service's own limit holds where that is sooner.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
}
INFO: dict[str, Any] = {"title": "CarlaRL Policy-as-a-Service", "description": _DESCRIPTION.strip()}


def error_responses(errors: tuple[type[GatewayError], ...]) -> dict[int | str, dict[str, Any]]:
    """Describe the answers for `errors`, and for one that nobody foresaw."""
    described: dict[int | str, dict[str, Any]] = {
        error.status: _response(error.code, error.__doc__ or "") for error in errors
    }
    described[500] = _response("INTERNAL_ERROR", "Anything else.")
    return described


def request_body(model: type[BaseModel], required: bool) -> dict[str, Any]:
    """Describe what a route with a body reads by itself: the body, and the caller's deadline."""
    content = {"application/json": {"schema": {"$ref": _REF.format(model=model.__name__)}}}
    return {"requestBody": {"required": required, "content": content}, "parameters": [_DEADLINE]}


def complete(document: dict[str, Any], api_keys: bool) -> dict[str, Any]:
    """Add to FastAPI's document the bodies' schemas and, where keys are asked for, how."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for model in (PredictRequest, WarmupRequest):
        schema = model.model_json_schema(ref_template=_REF)
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
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
                "message": "Input should be less than or equal to 200",
                "type": "less_than_equal",
            }
        ]
    example = {"error": code, "message": meaning, "details": details, "timestamp": 1695825600.0}
    return {
        "model": ErrorEnvelope,
        "description": f"`{code}`: {meaning}",
        "content": {"application/json": {"example": example}},
    }
