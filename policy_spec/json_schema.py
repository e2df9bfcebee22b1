"""JSON Schema (2020-12) of observations and actions."""

from typing import Any

from policy_spec.dtypes import Number
from policy_spec.images import FORMATS, colours_of
from policy_spec.leaves import BINARY_ELEMENTS
from policy_spec.signature import Signature
from policy_spec.spaces import Bounds, Dict, LeafSpace, Space, Tuple, at
from policy_spec.validate import takes_bytes, takes_images, takes_lists

JsonSchema = dict[str, Any]


def observation_schema(space: Space) -> JsonSchema:
    """Return the schema of one observation, with base64 where it is allowed.

    What `policy_spec.validate.check` accepts in JSON is accepted. Bounds of single elements are
    those of the whole leaf where it has more than `BINARY_ELEMENTS`, and what an image must be is
    only described.
    """
    return _schema(space, True)


def action_schema(signature: Signature) -> JsonSchema:
    """Return the schema of an action in an answer: the controls, else the policy's own."""
    if signature.control is None:
        return policy_action_schema(signature.action_space)
    properties: JsonSchema = {}
    for name, (low, high) in signature.control.ranges.items():
        number = {"type": "number", "minimum": low, "maximum": high}
        properties[name] = {"type": "boolean"} if name in signature.control.switches else number
    return _object(properties)


def policy_action_schema(space: Space) -> JsonSchema:
    """Return the schema of an action in the policy's own space, always numbers and lists."""
    return _schema(space, False)


def _object(properties: JsonSchema) -> JsonSchema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _array(length: int, **more: Any) -> JsonSchema:
    return {"type": "array", "minItems": length, "maxItems": length, **more}


def _schema(space: Space, bytes_too: bool) -> JsonSchema:
    if isinstance(space, Dict):
        return _object({key: _schema(sub, bytes_too) for key, sub in space.subspaces})
    if isinstance(space, Tuple):
        parts = [_schema(sub, bytes_too) for sub in space.subspaces]
        return _array(len(parts), prefixItems=parts)
    forms = []
    if not bytes_too or takes_lists(space):
        forms.append(_numbers(space))
    if bytes_too and takes_bytes(space):
        length = -(-space.size * space.element.itemsize // 3) * 4
        forms.append(
            {
                "type": "string",
                "contentEncoding": "base64",
                "minLength": length,
                "maxLength": length,
            }
        )
    if bytes_too and takes_images(space):
        forms += [_image(space, format) for format in FORMATS]
    schema = forms[0] if len(forms) == 1 else {"anyOf": forms}
    said = {"description": space.description, "x-unit": space.unit}
    return schema | {key: text for key, text in said.items() if text is not None}


def _image(space: LeafSpace, format: str) -> JsonSchema:
    height, width = space.shape[:2]
    content = {
        "type": "string",
        "contentEncoding": "base64",
        "contentMediaType": f"image/{format}",
        "description": f"{width} × {height} pixels in {colours_of(space.shape)}, 8 bits each.",
    }
    return _object({format: content})


def _numbers(space: LeafSpace) -> JsonSchema:
    low, high = space.limits()
    if space.size > BINARY_ELEMENTS:
        low, high = _end(low, min), _end(high, max)
    kind = "number" if space.element.floating else "integer"

    def element(index: int) -> JsonSchema:
        return {"type": kind, "minimum": at(low, index), "maximum": at(high, index)}

    uniform = not isinstance(low, tuple) and not isinstance(high, tuple)
    rows = [element(index) for index in range(1 if uniform else space.size)]
    for width in reversed(space.shape):
        if uniform:
            rows = [_array(width, items=rows[0])]
        else:
            starts = range(0, len(rows), width)
            rows = [_array(width, prefixItems=rows[start : start + width]) for start in starts]
    return rows[0]


def _end(bounds: Bounds, choose: Any) -> Number:
    end: Number = choose(bounds) if isinstance(bounds, tuple) else bounds
    return end
