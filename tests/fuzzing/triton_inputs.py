"""Requests to Triton, over HTTP with binary tensors and over gRPC: wild numbers, wrong tensors."""

from __future__ import annotations

import json
import math
from random import Random
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from tests.fuzzing.exchange import Input, Maker, mutated, split
from tests.gateway.processes import OBSERVATION

ROW = {"speed": (1, "FP32"), "steering": (1, "FP32"), "sensors": (5, "FP32")}
ROW |= {"deterministic": (1, "BOOL"), "seed": (1, "INT64"), "row": (1, "INT64")}
NONCE = {"nonce": (1, "INT64")}
ROW |= NONCE
MODELS: dict[str, dict[str, tuple[int, str]]] = {
    "carla_policy": ROW,
    "carla_policy-v0.2.0": ROW,
    "preprocess-v0.2.0": ROW,
    "carla_policy_fused-v0.2.0": {"observation": (7, "FP32"), "noise_key": (2, "INT64"), **NONCE},
    "policy_onnx-v0.2.0": {"features": (7, "FP32"), "noise": (3, "FP32"), **NONCE},
}
OPTIONAL = ("row", "noise_key", "nonce")
OUTPUTS = {"preprocess-v0.2.0": "features"}
"""Where it is not `action`."""
KINDS = ("FP16", "FP32", "FP64", "INT8", "INT64", "UINT64", "BOOL", "BYTES", "BF16", "", "fp32")
SHAPES: tuple[list[Any], ...] = (
    *([], [0], [1], [-1, 1], [0, 1], [1, 0], [1, 1, 1], [1, -5], [257, 1], [2**31, 2**31]),
    *([2**62, 4], [2**63 - 1, 1], [1, 2**40]),
)
ROWS = (*(1,) * 8, *(2,) * 8, 3, 7, 64, 255, *(256,) * 4, 257, 0)
USUAL = (0.5, -0.5, 0.0, 1.0, 42.0)
HUGE = (3.4e38, -3.4e38, 1e30, 1e-45, -0.0, 1e-30)
SPECIAL = (math.nan, math.inf, -math.inf)
SEEDS = (0, 7, 2**31, 2**63 - 1)


def tensors(random: Random, model: str) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Describe inputs of a model in the right form, and their bytes; numbers may be anything.

    Each row has its own. Half of them have numbers that the model takes.
    """
    rows, wild = random.choice(ROWS), random.random() < 0.5
    numbers = USUAL + random.choice(((), HUGE, HUGE))
    described, data = [], []
    for name, (width, kind) in MODELS[model].items():
        if name in OPTIONAL and random.random() < 0.4:
            continue
        count = rows * width
        if kind == "FP32":
            values = np.array(random.choices(numbers, k=count), "<f4")
            if wild and count:
                values[random.randrange(count)] = random.choice(SPECIAL)
        elif kind == "INT64":
            values = np.array(random.choices(SEEDS, k=count), "<i8")
            if wild and count:
                values[random.randrange(count)] = random.choice((-1, -2, -(2**63)))
        else:
            values = np.array(random.choices((0, 1, 255), k=count), np.uint8)
        data.append(values.tobytes())
        parameters = {"binary_data_size": len(data[-1])}
        described.append(
            {"name": name, "shape": [rows, width], "datatype": kind, "parameters": parameters}
        )
    return described, data


def outputs(model: str) -> list[dict[str, Any]]:
    return [{"name": OUTPUTS.get(model, "action"), "parameters": {"binary_data": True}}]


def wrong_tensors(random: Random, described: list[dict[str, Any]], data: list[bytes]) -> None:
    """Change a shape, a type, a name, a byte count, or the number of tensors."""
    which = random.randrange(len(described))
    one = described[which]
    choice = random.randrange(7)
    if choice == 0:
        one["shape"] = random.choice(SHAPES)
    elif choice == 1:
        one["datatype"] = random.choice(KINDS)
    elif choice == 2:
        one["name"] = random.choice(("", "nothing", "x" * 9999, "speed\x00", "action", "row"))
    elif choice == 3:
        data[which] = data[which][: random.randrange(len(data[which]) + 1)]
    elif choice == 4:
        data[which] += random.randbytes(random.choice((1, 7, 4096)))
    elif choice == 5:
        del described[which], data[which]
    else:
        described.append(dict(one))
        data.append(data[which])


def wild_numbers(random: Random) -> Input:
    """A request for an inference in the right form, whatever its numbers are."""
    model = random.choice(list(MODELS))
    described, data = tensors(random, model)
    text = json.dumps({"inputs": described, "outputs": outputs(model)}).encode()
    return inference("wild numbers over HTTP", random, model, text, len(text), b"".join(data))


def wrong_form(random: Random) -> Input:
    """A request for an inference with something wrong, in right HTTP framing."""
    model = random.choice(list(MODELS))
    described, data = tensors(random, model)
    for _ in range(random.choice((0, 1, 1, 2))):
        if described:
            wrong_tensors(random, described, data)
    choice = random.randrange(8)
    if choice == 0 and described:
        sizes = (-1, 0, 1, 2**31, 2**63, 2**64, 1.5, "4", None)
        random.choice(described)["parameters"]["binary_data_size"] = random.choice(sizes)
    content: dict[str, Any] = {"inputs": described}
    odd = ([], [{"name": "nothing"}], [{"name": "action"}] * 2, 5, None, [{}])
    content["outputs"] = random.choice(odd) if choice == 1 else outputs(model)
    if choice == 2:
        key, value = random.choice(
            (
                *(("id", 5), ("id", "x" * 99_999), ("parameters", []), ("inputs", {})),
                *(("parameters", {"sequence_id": -1}), ("parameters", {"timeout": -1})),
                *(("parameters", {"priority": 2**64}), ("inputs", None)),
                ("parameters", {"sequence_start": True, "sequence_id": 2**63}),
            )
        )
        content[key] = value
    if choice == 3 and described:
        random.choice(described)["data"] = random.choice(([], [1e308], [[[[1]]]], ["a"], 5, None))
    text = json.dumps(content).encode()
    if choice == 4:
        text = mutated(random, text)
    length: int | str = len(text)
    if choice == 5:
        length = random.choice((0, -1, 1, len(text) - 1, len(text) + 1, 2**31, 2**63, 2**70, "x"))
    if choice == 6:
        model = random.choice(
            ("nothing", "..", "policy_onnx-v0.2.0/versions/99", "carla_policy/versions/x")
        )
    payload = b"".join(data)
    if choice == 7:
        payload = payload[: random.randrange(len(payload) + 1)]
    return inference("wrong tensors over HTTP", random, model, text, length, payload)


def inference(
    kind: str, random: Random, model: str, text: bytes, length: int | str, data: bytes
) -> Input:
    """A request in right HTTP framing: `text`, said to be `length` long, and `data`."""
    head = (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\n"
        f"Inference-Header-Content-Length: {length}\r\n"
        f"Content-Length: {len(text) + len(data)}\r\n\r\n"
    )
    # Triton 2.51 itself misreads a request line that comes in two pieces: 404, 405 or the end of
    # the connection, also for a good request. So it comes whole; the rest is cut.
    line, rest = head.encode().split(b"\n", 1)
    first, *pieces = split(random, rest + text + data)
    return Input(kind, (line + b"\n" + first, *pieces), 1)


def triton_control(random: Random) -> Input:
    """Other targets of Triton, the closed ones too, without the secret."""
    target = random.choice(
        (
            *("/v2", "/v2/health/ready", "/v2/models/carla_policy/config", "/v2/models//infer"),
            *("/v2/repository/models/carla_policy/unload", "/v2/logging", "/v2/trace/setting"),
            *("/v2/systemsharedmemory/region/x/register", "/v2/cudasharedmemory/status", "/x"),
            *("/v2/models/carla_policy/stats", "/v2/models/%00/ready", "/v2/repository/index"),
        )
    )
    content = random.choice((b"", b"{}", b"[" * 9000, b"\xff" * 100, b'{"a":1e400}'))
    method = random.choice(("GET", "POST", "PUT"))
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\n"
    head += f"Content-Length: {len(content)}\r\n\r\n"
    return Input("Triton's other routes", (head.encode() + content,), 1)


TRITON_INPUTS: tuple[Maker, ...] = (*(wild_numbers,) * 9, *(wrong_form,) * 9, triton_control)


def over_grpc(random: Random) -> service_pb2.ModelInferRequest:
    """A request with wild numbers or something wrong, as far as the protocol's types allow."""
    model = random.choice(list(MODELS))
    described, data = tensors(random, model)
    if random.random() < 0.5:
        return grpc_message(model, described, data)
    for _ in range(random.choice((0, 1, 1, 2))):
        if described:
            wrong_tensors(random, described, data)
    message = grpc_message(model, described, data[: random.choice((len(data), len(data), 1))])
    for tensor in message.inputs:
        if random.random() < 0.05:
            tensor.contents.fp32_contents.extend([1.0] * random.choice((1, 7, 5000)))
    if random.random() < 0.2:
        message.outputs.add(name=random.choice(("action", "nothing", "", "x" * 9999)))
    if random.random() < 0.1:
        message.model_version = random.choice(("1000", "99", "-1", "x", "9" * 30))
    if random.random() < 0.1:
        message.parameters["sequence_id"].int64_param = random.choice((-1, 0, 2**63 - 1))
    if random.random() < 0.1:
        message.parameters["timeout"].int64_param = -1
    return message


def grpc_message(
    model: str, described: list[dict[str, Any]], data: list[bytes]
) -> service_pb2.ModelInferRequest:
    message = service_pb2.ModelInferRequest(model_name=model)
    for one in described:
        tensor = message.inputs.add(name=one["name"], datatype=one["datatype"])
        tensor.shape.extend(one["shape"])
    message.raw_input_contents.extend(data)
    return message


def _good(model: str) -> bytes:
    values = [OBSERVATION["speed"], OBSERVATION["steering"], *OBSERVATION["sensors"]]
    data = np.array(values, "<f4").tobytes()
    one = {"name": "observation", "shape": [1, 7], "datatype": "FP32"}
    one["parameters"] = {"binary_data_size": len(data)}
    outputs = [{"name": "action", "parameters": {"binary_data": True}}]
    text = json.dumps({"inputs": [one], "outputs": outputs}).encode()
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\n"
    head += f"Inference-Header-Content-Length: {len(text)}\r\n"
    head += f"Content-Length: {len(text) + len(data)}\r\n\r\n"
    return head.encode() + text + data


GOOD_INFERENCE = _good("carla_policy_fused-v0.2.0")
