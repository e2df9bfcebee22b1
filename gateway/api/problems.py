"""What is wrong with a body: msgspec's errors, as problems of fields."""

import re

import msgspec

from gateway.api.errors import ValidationFailed

JSON, MSGPACK = "application/json", "application/msgpack"
"""The formats, by the types that answers have."""
MAX_SAID = 300
"""A message of msgspec that is twice as long loses its middle: it may repeat the whole body."""
NOT_READ = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for what it can't read."""

BAD_VERSION = {
    "field": "version",
    "message": "must be a version like v0.1.0",
    "type": "string_pattern_mismatch",
}
_WHERE = re.compile(r"(?P<said>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_LENGTH = re.compile(r"(?<=Expected `array` of length )(\d+), got \d+")
"""Of a wrong tuple: in msgpack msgspec also says how long it is."""
_FIELD = re.compile(r"Object (missing required|contains unknown) field `(.*)`", re.DOTALL)
_TYPES = (
    (re.compile(r"Expected `(?:float|int)(?: \| null)?` >= "), "greater_than_equal"),
    (re.compile(r"Expected `(?:float|int)(?: \| null)?` <= "), "less_than_equal"),
    (re.compile(r"Expected `(?:array|bytes)` of length >= "), "too_short"),
    (re.compile(r"Expected `(?:array|bytes)` of length <= "), "too_long"),
    (re.compile(r"Expected `array` of length \d"), "wrong_length"),
    (re.compile(r"Expected `str` matching regex "), "string_pattern_mismatch"),
    (re.compile(r"Expected `float"), "float_type"),
    (re.compile(r"Expected `int"), "int_type"),
    (re.compile(r"Expected `bool"), "bool_type"),
    (re.compile(r"Expected `str"), "string_type"),
    (re.compile(r"Expected `(?:bytes \| )?(?:object \| )?array"), "list_type"),
    (re.compile(r"Expected `bytes"), "bytes_type"),
    (re.compile(r"Expected (?:`object|one of the fields)"), "model_type"),
    (re.compile(r"Expected an? .*image"), "image_invalid"),
    (re.compile(r"Number out of range"), "finite_number"),
    (re.compile(r"Integer value out of range"), "less_than_equal"),
)
"""The type of a problem, by the start of msgspec's message."""
_MALFORMED = {
    JSON: ("Invalid JSON", "json_invalid"),
    MSGPACK: ("Invalid msgpack", "msgpack_invalid"),
}


def failed(error: Exception, form: str, within: str = "") -> ValidationFailed:
    """Return the error for callers; msgspec raised `error` about the field `within`."""
    return ValidationFailed([problem(error, form, within)])


def problem(error: Exception, form: str, within: str = "") -> dict[str, str]:
    """Return the field, the message and the type of a problem."""
    said = str(error)
    if len(said) > 2 * MAX_SAID:
        said = said[:MAX_SAID] + said[-MAX_SAID:]
    if not isinstance(error, msgspec.ValidationError):
        what, kind = _MALFORMED[form]
        return {"field": "body", "message": f"{what}: {said}", "type": kind}
    found = _WHERE.fullmatch(said)
    assert found is not None  # it takes any text
    said = _LENGTH.sub(r"\1", found["said"])
    path = within + re.sub(r"\[(\d+|\.\.\.)\]", r".\1", found["path"] or "")
    field = _FIELD.fullmatch(said)
    if field is not None:
        path = f"{path}.{field[2]}"
        missing = field[1].startswith("missing")
        said = "Field required" if missing else "There is no such field"
        kind = "missing" if missing else "extra_forbidden"
    else:
        kind = next((name for pattern, name in _TYPES if pattern.match(said)), "invalid_value")
    path = path.removeprefix(".")
    if kind == "string_pattern_mismatch":
        return BAD_VERSION
    return {"field": path or "body", "message": said, "type": kind}
