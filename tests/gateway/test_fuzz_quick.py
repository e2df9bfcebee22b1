"""A few hundred of the inputs that `tests/reliability/test_fuzz.py` sends by ten thousands."""

from random import Random

import httpx

from tests.fuzzing import checks
from tests.fuzzing.gateway_inputs import GATEWAY_INPUTS, GOOD_REQUEST, too_large
from tests.fuzzing.sending import Sender
from tests.fuzzing.triton_inputs import GOOD_INFERENCE, TRITON_INPUTS
from tests.stack import Stack

SEED = 6


def test_bad_input_is_refused(stack: Stack) -> None:
    random = Random(SEED)
    inputs = [random.choice(GATEWAY_INPUTS)(random) for _ in range(600)]
    inputs += [too_large(random) for _ in range(4)]
    sender = Sender(stack.gateway_url, GOOD_REQUEST, checks.check_gateway, checks.actions)
    outcome = sender.run(inputs)
    assert outcome.problems == []
    assert {200, 400, 404, 405, 413, 415, 422} <= set(outcome.codes)
    assert httpx.get(stack.gateway_url + "/readyz").status_code == 200


def test_wild_tensors_are_answered_or_refused(stack: Stack) -> None:
    random = Random(SEED)
    sender = Sender(
        f"http://{stack.triton_http}", GOOD_INFERENCE, checks.check_triton, checks.action
    )
    outcome = sender.run(random.choice(TRITON_INPUTS)(random) for _ in range(300))
    assert outcome.problems == []
    assert outcome.reached > 100
    assert outcome.codes[200] > 20  # most wild numbers are out of their ranges


def test_the_openapi_page_is_kept_to(stack: Stack) -> None:
    outcome = checks.check_by_openapi(stack.gateway_url, examples=25, derandomize=True)
    assert outcome.sent.total() > 50
    assert {200, 422} <= set(outcome.codes)
