"""One call of the runtime for all requests that Triton passes at once."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb
from numpy.typing import NDArray

Arrays = tuple[NDArray[Any], ...]


def answer(
    requests: Sequence[Any],
    read: Callable[[Any], Arrays],
    compute: Callable[..., Arrays],
    outputs: Sequence[str],
) -> list[Any]:
    """Answer `requests` with one `compute` over all their rows, in the order they came.

    `read` returns a request's arrays, first dimension rows. If it raises ValueError, only that
    request gets the error. `compute` takes the joined arrays and returns one array for each name in
    `outputs`. A request whose rows of them are not finite gets an error, the others their answers.

    Each answer has the output `nonce_echo`, too: its request's input `nonce`, or zeros without one.
    So a caller sees whether an answer is that of its own call. Triton leaves the output out for a
    model whose config has none.
    """
    responses: list[Any] = [None] * len(requests)
    good: list[int] = []
    parts: list[Arrays] = []
    for index, request in enumerate(requests):
        try:
            parts.append(read(request))
        except ValueError as error:
            responses[index] = _error(str(error))
        else:
            good.append(index)
    if not good:
        return responses
    joined = parts[0] if len(parts) == 1 else tuple(map(np.concatenate, zip(*parts, strict=True)))
    results = compute(*joined)
    rows = len(joined[0])
    if any(len(result) != rows for result in results):
        raise pb.TritonModelException(f"the runtime did not answer {rows} rows with {rows} rows")
    start = 0
    for index, part in zip(good, parts, strict=True):
        stop = start + len(part[0])
        shares = [result[start:stop] for result in results]
        start = stop
        if all(np.isfinite(share).all() for share in shares):
            tensors = [pb.Tensor(name, share) for name, share in zip(outputs, shares, strict=True)]
            tensors.append(_echo(requests[index], len(part[0])))
            responses[index] = pb.InferenceResponse(output_tensors=tensors)
        else:
            responses[index] = _error(f"the computed {' or '.join(outputs)} is not finite")
    return responses


def tensor(request: Any, name: str, dimensions: int = 2) -> NDArray[Any]:
    """Return the input `name` of `request`, rows first. Raise ValueError if it is unusable.

    Triton accepts requests without an input if another input is optional, and inputs without rows.
    """
    given = pb.get_input_tensor_by_name(request, name)
    if given is None:
        raise ValueError(f"{name} is missing")
    values: NDArray[Any] = given.as_numpy()
    if values.ndim != dimensions or not values.size:
        raise ValueError(f"{name} must have rows")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite")
    return values


def _echo(request: Any, rows: int) -> Any:
    given = pb.get_input_tensor_by_name(request, "nonce")
    nonce = np.zeros((rows, 1), np.int64) if given is None else given.as_numpy()
    return pb.Tensor("nonce_echo", nonce)


def _error(message: str) -> Any:
    return pb.InferenceResponse(error=pb.TritonError(message, pb.TritonError.INVALID_ARG))
