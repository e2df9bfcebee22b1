"""`/asyncapi.json`: the description of `/stream`, made from the models that check its frames."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import yaml

from gateway.api.codec import codec_of, step_type
from gateway.api.messages import Observation, StepAnswer, StepError, StepSkipped
from gateway.api.openapi import SCHEMA_REF, SECURITY_SCHEMES, fill
from policy_spec.signature import Signature

SUBPROTOCOLS = ("carlarl.v1", "carlarl.v1.msgpack")
KEY_PREFIX = "carlarl.key."
"""A browser can set no header: it offers this prefix and its API key as a subprotocol."""

_DOCUMENT: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
_MODELS: dict[str, Any] = {
    "step": step_type(Observation),
    "answer": StepAnswer,
    "skipped": StepSkipped,
    "error": StepError,
}


def document(version: str, api_keys: bool, signature: Signature | None) -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document of a gateway of that version.

    Observations and actions are those of `signature`, the active policy's.
    """
    made = deepcopy(_DOCUMENT)
    made["info"]["version"] = version
    components = made["components"]
    if api_keys:
        schemes = SECURITY_SCHEMES | {"apiKey": SECURITY_SCHEMES["apiKey"] | {"type": "httpApiKey"}}
        components["securitySchemes"] = schemes
        names = [{"$ref": f"#/components/securitySchemes/{name}"} for name in schemes]
        made["servers"]["gateway"]["security"] = names
    components["messages"] = {
        name: {
            "name": name,
            "summary": model.__doc__,
            "payload": {"$ref": SCHEMA_REF.format(name=model.__name__)},
        }
        for name, model in _MODELS.items()
    }
    _, schemas = msgspec.json.schema_components(_MODELS.values(), ref_template=SCHEMA_REF)
    fill(schemas, signature)
    if signature is not None:
        observation = codec_of(signature.observation_space).example
        step = {"stepId": 17, "observation": observation, "deterministic": True}
        schemas["StepRequest"]["examples"] = [step]
    components["schemas"] = schemas
    return made
