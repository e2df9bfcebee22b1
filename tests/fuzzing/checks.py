"""What must be true of an answer, and of a server that has given many."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import InvalidArgument, Unsatisfiable
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.fuzzing.exchange import Answer, Input, Outcome

GATEWAY_CODES = {200, 307, 400, 404, 405, 409, 413, 415, 422, 429, 504}
"""504: a deadline of a millisecond, or a body that does not end. Nothing else may be a 5xx."""
TRITON_CODES = {200, 400, 403, 404, 405, 411}
POLICIES_SAY = (
    "must be finite",
    "must be from",
    "must not be negative",
    "must be -1 or more",
    "must have rows",
)
"""What our own models refuse with."""


def actions(answer: Answer) -> Any:
    """Return the actions of a good answer of `/predict`."""
    assert answer.status == 200, (answer.status, answer.body[:500])
    return json.loads(answer.body)["actions"]


def action(answer: Answer) -> bytes:
    """Return the action of a good answer of Triton, as it came."""
    assert answer.status == 200, answer
    return answer.body[int(answer.headers["inference-header-content-length"]) :]


def check_gateway(one: Input, answer: Answer) -> bool:
    """Check that an answer of the gateway is one that is documented."""
    assert answer.status in GATEWAY_CODES, (answer.status, answer.body[:500])
    assert answer.headers["x-request-id"]
    if answer.status == 307:
        assert answer.headers["location"] in ("/console", "/docs")
        return False
    if answer.status != 200 and not one.no_content:
        envelope = json.loads(answer.body)
        assert set(envelope) == {"error", "message", "details", "timestamp"}, envelope
        assert envelope["details"]["request_id"] == answer.headers["x-request-id"]
        assert b"Traceback" not in answer.body
    elif one.body is not None:
        asked = json.loads(one.body)
        given = actions(answer)
        assert len(given) == len(asked["observations"])
        assert all(-1 <= number <= 1 for action in given for number in action.values())
    return answer.status == 200 and b'"actions"' in answer.body


def check_by_openapi(url: str, examples: int, derandomize: bool) -> Outcome:
    """Ask each operation of the OpenAPI page as it says and as it does not."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    outcome = Outcome()
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in schemathesis.GenerationMode:
            try:
                strategy = operation.as_strategy(generation_mode=mode)
            except InvalidArgument:
                continue

            @settings(
                max_examples=examples,
                derandomize=derandomize,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=strategy)
            def check(case: Any) -> None:
                response = case.call()
                assert response.status_code in GATEWAY_CODES, response.text[:500]
                outcome.codes[response.status_code] += 1
                case.validate_response(
                    response,
                    checks=[
                        status_code_conformance,
                        content_type_conformance,
                        response_schema_conformance,
                    ],
                )

            with contextlib.suppress(Unsatisfiable):  # nothing to get wrong
                check()
    outcome.sent["by the page"] = outcome.codes.total()
    return outcome


def check_triton(one: Input, answer: Answer) -> bool:
    """Check Triton's answer. It says 500 to JSON that it cannot read, and may to nothing else."""
    length = answer.headers.get("inference-header-content-length")
    if answer.status == 200 and length is not None:
        outputs = json.loads(answer.body[: int(length)])["outputs"]
        assert len(answer.body) - int(length) == sum(
            output["parameters"]["binary_data_size"] for output in outputs
        )
        assert all(
            output["parameters"]["binary_data_size"] == 4 * math.prod(output["shape"])
            for output in outputs
        )
        return True
    if answer.status == 500:
        error = json.loads(answer.body)["error"]
        assert "parse" in error or "request params" in error, error[:500]
    else:
        assert answer.status in TRITON_CODES, (answer.status, answer.body[:500])
    return answer.status == 400 and by_a_policy(answer.body.decode(errors="replace"))


def by_a_policy(said: str) -> bool:
    """Whether an error is one of our own models'."""
    return any(words in said for words in POLICIES_SAY)


def anonymous(processes: Iterable[psutil.Process]) -> float:
    """MB that the processes hold for themselves alone, without files that they map."""
    total = 0
    for process in processes:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                total += int(line.split()[1])
    return total / 1024
