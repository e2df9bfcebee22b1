"""A few hundred of the inputs that `tests/reliability/test_fuzz.py` sends by ten thousands."""

from random import Random

import httpx

from tests import fuzzing
from tests.stack import Stack

SEED = 6


def test_bad_input_is_refused(stack: Stack) -> None:
    random = Random(SEED)
    inputs = [random.choice(fuzzing.GATEWAY_INPUTS)(random) for _ in range(600)]
    inputs += [fuzzing.too_large(random) for _ in range(4)]
    sender = fuzzing.Sender(
        stack.gateway_url, fuzzing.GOOD_REQUEST, fuzzing.check_gateway, fuzzing.actions
    )
    outcome = sender.run(inputs)
    assert outcome.problems == []
    assert {200, 400, 404, 405, 413, 415, 422} <= set(outcome.codes)
    assert httpx.get(stack.gateway_url + "/readyz").status_code == 200


def test_the_openapi_page_is_kept_to(stack: Stack) -> None:
    outcome = fuzzing.check_by_openapi(stack.gateway_url, examples=25, derandomize=True)
    assert outcome.sent.total() > 50
    assert {200, 422} <= set(outcome.codes)
