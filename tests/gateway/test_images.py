"""Encoded images through a live Triton: decoded, or refused with their path."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import msgspec
import numpy as np
import psutil
import pytest
import torch
from websockets.sync.client import ClientConnection, connect

from converters.export.export import export
from converters.importers.torchscript import import_torchscript
from converters.repository import configs
from gateway.api.codec import codec_of
from gateway.api.problems import JSON, MSGPACK
from gateway.inference.cache import Cache
from gateway.observability.metrics import Metrics
from gateway.triton.batch import Rows
from gateway.triton.tensors import Tensors
from policy_spec.leaves import Layout
from policy_spec.parsing import parse_space
from tests.gateway.image_files import BY_DECODING, BY_HEADER, JPEG, PNG, decoded, encoded, picture
from tests.gateway.test_signatures import ask, step
from tests.stack import Stack, running_stack

MAP = (20, 12)
MEAN = {"deterministic": True}
SPEC: dict[str, Any] = {
    "observation_space": {
        "type": "Dict",
        "subspaces": {
            "camera": {
                "type": "Dict",
                "subspaces": {
                    "front": {
                        "type": "Box", "dtype": "uint8", "shape": [96, 96, 3], "low": 0,
                        "high": 255, "description": "The camera ahead, BGR.",
                    }
                },
            },
            "map": {"type": "Box", "dtype": "uint8", "shape": list(MAP), "low": 0, "high": 200},
            "speed": {"type": "Box", "dtype": "float32", "shape": [], "low": 0, "high": 200},
        },
    },
    "action_space": {
        "type": "Box", "dtype": "float32", "shape": [3], "low": "-inf", "high": "inf"
    },
    "distribution": {"noise": "none"},
}  # fmt: skip


BARE = SPEC["observation_space"]["subspaces"]["camera"]["subspaces"]["front"]


class Bare(torch.nn.Module):
    """The mean of each channel."""

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return observation.float().mean((1, 2))


class Program(torch.nn.Module):
    """Sums of the pixels, each with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layer = torch.nn.Linear(96 * 96 * 3 + 20 * 12 + 1, 3)

    def forward(
        self, features: torch.Tensor, front: torch.Tensor, map: torch.Tensor
    ) -> torch.Tensor:
        parts = [features, front.flatten(1).float(), map.flatten(1).float()]
        made: torch.Tensor = self.layer(torch.cat(parts, 1) / 255)
        return made


@contextmanager
def serving(
    folder: Path, program: torch.nn.Module, observed: Any, old: bool = False
) -> Iterator[Stack]:
    """Serve a program; `old` says that the fused model is as an earlier release wrote it."""
    torch.jit.script(program.eval()).save(folder / "program.pt")
    spec = SPEC | {"observation_space": observed}
    made = import_torchscript(folder / "program.pt", "v1.0.0", folder / "artifacts", spec=spec)
    export([made], folder / "repository", ["onnx"])
    if old:
        path = folder / "repository" / "carla_policy_fused-v1.0.0" / "config.pbtxt"
        config = configs.parse(path.read_text())
        config.input.remove(next(one for one in config.input if one.name.endswith(".encoded")))
        path.write_text(configs.text(config))
    with running_stack(MODEL_REPOSITORY=str(folder / "repository")) as stack:
        yield stack


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("images")
    with serving(folder, Program(), SPEC["observation_space"]) as stack:
        yield stack


@pytest.fixture(scope="module")
def url(served: Stack) -> str:
    return served.gateway_url


def streaming(url: str) -> ClientConnection:
    return connect(f"ws{url.removeprefix('http')}/stream", compression=None)


@pytest.fixture(scope="module")
def stream(url: str) -> Iterator[ClientConnection]:
    with streaming(url) as connection:
        yield connection


def binary(content: bytes, form: str) -> Any:
    return content if form == MSGPACK else base64.b64encode(content).decode()


def sent(value: Any, form: str) -> Any:
    """A value with bytes, as it is sent."""
    if isinstance(value, dict):
        return {name: sent(one, form) for name, one in value.items()}
    return binary(value, form) if isinstance(value, bytes) else value


def seen(front: Any, map: Any = None) -> dict[str, Any]:
    shown = picture(3, MAP, 200).tobytes() if map is None else map
    return {"camera": {"front": front}, "map": shown, "speed": 30}


def acted(url: str, form: str, *observations: Any) -> list[list[float]]:
    body = {"observations": [sent(one, form) for one in observations], "deterministic": True}
    status, answer = ask(url, form, body)
    assert status == 200, answer
    actions: list[list[float]] = answer["actions"]
    return actions


@pytest.mark.parametrize("form", [JSON, MSGPACK])
def test_an_image_is_as_its_pixels(url: str, stream: ClientConnection, form: str) -> None:
    """Raw, PNG and JPEG, mixed in one request, and nested lists."""
    front, shown = picture(1), picture(3, MAP, 200)
    (expected,) = acted(url, form, seen(front.tobytes()))
    (other,) = acted(url, form, seen(decoded(JPEG).tobytes()))
    assert np.abs(np.subtract(expected, other)).max() > 1e-4
    rows = [
        (seen({"png": PNG}), expected),
        (seen(front.tobytes()), expected),
        (seen({"jpeg": JPEG}), other),
        (seen(front.tolist()), expected),
        (seen({"png": encoded(front, compress_level=0)}, {"png": encoded(shown)}), expected),
        (seen(front.tobytes(), {"png": encoded(shown)}), expected),
        (seen({"jpeg": encoded(front, "jpeg", progressive=True)}), other),
    ]
    together = acted(url, form, *(row for row, _ in rows))
    for (row, right), got in zip(rows, together, strict=True):
        np.testing.assert_allclose(got, right, atol=1e-5)
        np.testing.assert_allclose(acted(url, form, row)[0], right, atol=1e-5)
        frame = {"stepId": 3, "observation": sent(row, form), "deterministic": True}
        np.testing.assert_allclose(step(stream, form, frame)["action"], right, atol=1e-5)


OTHER: dict[str, tuple[dict[str, Any], str, str]] = {
    "bytes of another length": (
        seen(bytes(27647)), "camera.front", "Expected `bytes` of length >= 27648"
    ),
    "a PNG where the leaf is no image": (
        seen({"png": PNG}) | {"speed": {"png": PNG}}, "speed", "Expected `float`, got `object`"
    ),
    "pixels out of bounds": (
        seen({"png": PNG}, {"png": encoded(picture(3, MAP, 210))}), "map",
        "Expected an image with its pixels within the leaf's bounds",
    ),
    "an RGB image for a grey leaf": (
        seen({"png": PNG}, {"png": PNG}), "map",
        "Expected an image in grey of 8 bits, got RGB of 8 bits",
    ),
    "16 bit grey": (
        seen({"png": PNG}, {"png": encoded(picture(3, MAP).astype(np.uint16))}), "map",
        "Expected an image in grey of 8 bits, got grey of 16 bits",
    ),
    "another field": (seen({"gif": PNG}), "camera.front.gif", "There is no such field"),
    "no bytes": (seen({"png": 5}), "camera.front.png", "Expected `bytes"),
}  # fmt: skip
BAD = OTHER | {
    name: (seen(value), "camera.front", message)
    for name, (value, message) in (BY_HEADER | BY_DECODING).items()
}


@pytest.mark.parametrize("form", [JSON, MSGPACK])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_one_is_told_with_its_path(
    url: str, stream: ClientConnection, name: str, form: str
) -> None:
    """Alone, among good ones of its request, and in a step."""
    bad, field, message = BAD[name]
    good = sent(seen({"png": PNG}), form)
    bad = sent(bad, form)
    for rows in ([bad], [good, good, bad, good]):
        status, answer = ask(url, form, {"observations": rows, "deterministic": True})
        assert (status, answer["error"]) == (422, "VALIDATION_ERROR"), answer
        (problem,) = answer["details"]["validation_errors"]
        assert problem["field"] == f"observations.{rows.index(bad)}.{field}"
        assert message in problem["message"]
    answer = step(stream, form, {"stepId": 1, "observation": bad, "deterministic": True})
    assert (answer["stepId"], answer["error"]) == (1, "VALIDATION_ERROR")
    (problem,) = answer["details"]["validation_errors"]
    assert problem["field"] == f"observation.{field}"
    assert message in problem["message"]


def test_neighbours_of_bad_ones_are_answered(served: Stack) -> None:
    """Many requests at once: they share calls, and those that can't be decoded fail alone."""
    url = served.gateway_url
    forms = [JSON, MSGPACK]
    (expected,) = acted(url, JSON, seen({"png": PNG}))
    broken = [seen(value) for value, _ in BY_DECODING.values()]
    plan = [broken[i % len(broken)] if i % 5 == 2 else None for i in range(200)]

    def one(index: int) -> tuple[int, Any]:
        form, bad = forms[index % 2], plan[index]
        good = seen({"png": PNG} if index % 3 else picture(1).tobytes())
        rows = [good, bad or good]
        body = {"observations": [sent(row, form) for row in rows], "deterministic": True}
        return ask(url, form, body)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, range(len(plan))))
    for (status, answer), bad in zip(answers, plan, strict=True):
        if bad is None:
            assert status == 200, answer
            np.testing.assert_allclose(answer["actions"], [expected] * 2, atol=1e-5)
        else:
            assert (status, answer["error"]) == (422, "VALIDATION_ERROR"), answer
            (problem,) = answer["details"]["validation_errors"]
            assert problem["field"] == "observations.1.camera.front"


def test_an_observation_that_is_an_image(tmp_path: Path) -> None:
    front = picture(1)
    with serving(tmp_path, Bare(), BARE) as stack, streaming(stack.gateway_url) as stream:
        for form in (JSON, MSGPACK):
            rows = ({"png": PNG}, front.tobytes(), {"jpeg": JPEG})
            means = [one.mean((0, 1)) for one in (front, front, decoded(JPEG))]
            np.testing.assert_allclose(acted(stack.gateway_url, form, *rows), means, rtol=1e-5)
            for name, (value, message) in BY_DECODING.items():
                answer = step(stream, form, {"stepId": 4, "observation": sent(value, form)} | MEAN)
                (problem,) = answer["details"]["validation_errors"]
                assert (problem["field"], problem["message"]) == ("observation", message), name


def test_an_older_version_takes_pixels_alone(tmp_path: Path) -> None:
    with serving(tmp_path, Bare(), BARE, old=True) as stack, streaming(stack.gateway_url) as stream:
        for form in (JSON, MSGPACK):
            good, bad = (sent(one, form) for one in (picture(1).tobytes(), {"png": PNG}))
            assert ask(stack.gateway_url, form, {"observations": [good]} | MEAN)[0] == 200
            status, answer = ask(stack.gateway_url, form, {"observations": [good, bad]} | MEAN)
            assert (status, answer["error"]) == (422, "UNSUPPORTED"), answer
            assert "decodes no images" in answer["message"]
            answer = step(stream, form, {"stepId": 1, "observation": bad} | MEAN)
            assert answer["error"] == "UNSUPPORTED"


def test_no_memory_is_taken_for_bombs(served: Stack) -> None:
    processes = psutil.Process(served.process.pid).children(recursive=True)
    before = sum(one.memory_info().rss for one in processes)
    bombs = [BY_HEADER["bomb"], BY_DECODING["a second header"], BY_DECODING["much text"]]
    for value, _ in bombs * 20:
        body = {"observations": [seen(value)] * 8, "deterministic": True}
        assert ask(served.gateway_url, MSGPACK, body)[0] == 422
    assert sum(one.memory_info().rss for one in processes) - before < 100_000_000


def test_too_many_and_too_large(url: str) -> None:
    rows = [seen({"jpeg": JPEG})] * 1001
    status, answer = ask(url, MSGPACK, {"observations": rows, "deterministic": True})
    assert (status, answer["error"]) == (422, "VALIDATION_ERROR")
    assert answer["details"]["validation_errors"][0]["field"] == "observations"
    answer = httpx.post(f"{url}/predict", content=bytes(20_000_000), timeout=30)
    assert (answer.status_code, answer.json()["error"]) == (413, "PAYLOAD_TOO_LARGE")


def test_documents(url: str) -> None:
    metadata = httpx.get(f"{url}/metadata").json()
    assert metadata["images"] == [
        {"leaf": "camera.front", "width": 96, "height": 96, "channels": "BGR"},
        {"leaf": "map", "width": 12, "height": 20, "channels": "grey"},
    ]
    for path in ("/openapi.json", "/asyncapi.json"):
        schema = httpx.get(url + path).json()["components"]["schemas"]["Observation"]
        for name, content in (("png", PNG), ("jpeg", JPEG)):
            jsonschema.validate(sent(seen({name: content}), JSON), schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(sent(seen({"gif": PNG}), JSON), schema)


def test_the_cache_knows_images_by_their_bytes() -> None:
    """A file is not its pixels, nor a file that begins as they do."""
    front = picture(1)
    element = encoded(front)
    tensors = Tensors(Layout.of(parse_space(SPEC["observation_space"], "space")), ())
    cache = Cache(Metrics())
    codec = codec_of(parse_space(SPEC["observation_space"], "space"))

    def key(*fronts: Any) -> list[bytes]:
        body = msgspec.msgpack.encode(
            {"observations": [seen(front) for front in fronts], "deterministic": True}
        )
        packed = codec.pack(codec.read_request[MSGPACK](body).observations)
        return cache.keys("digest", Rows.of(tensors, len(fronts), packed, None))

    files = [{"png": element}, {"png": encoded(front, compress_level=0)}, {"jpeg": JPEG}]
    keys = [*key(*files), *key(front.tobytes())]
    assert len(set(keys)) == 4
    assert key(*files) == keys[:3]
    assert [key(one)[0] for one in files] == keys[:3]
