"""Images from the command line, with a real Triton that sees them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL.Image import Exif

from tests.gateway.image_files import JPEG, PNG, decoded, encoded, picture
from tests.gateway.test_images import BARE, SPEC, Bare, serving

Run = Callable[..., subprocess.CompletedProcess[str]]

FRAMES = (84, 84, 4)
SPACE: dict[str, Any] = {
    "type": "Dict",
    "subspaces": {
        **SPEC["observation_space"]["subspaces"],
        "frames": {"type": "Box", "dtype": "uint8", "shape": list(FRAMES), "low": 0, "high": 255},
        "planes": {"type": "Box", "dtype": "uint8", "shape": [2, 9, 16], "low": 0, "high": 1},
    },
}


class Program(torch.nn.Module):
    """The mean of each image, and the speed."""

    def forward(
        self,
        features: torch.Tensor,
        front: torch.Tensor,
        map: torch.Tensor,
        frames: torch.Tensor,
        planes: torch.Tensor,
    ) -> torch.Tensor:
        first = front.float()[..., 0].mean((1, 2)) - map.float().mean((1, 2))
        second = frames.float().mean((1, 2, 3)) + planes.float().mean((1, 2, 3))
        return torch.stack((first, second, features[:, 0]), 1)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("sight"), Program(), SPACE) as stack:
        yield stack.gateway_url


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "front.png").write_bytes(PNG)
    turned = Exif()
    turned[0x112] = 6
    (folder / "front=1.jpg").write_bytes(encoded(picture(1), "jpeg", exif=turned))
    (folder / "map.png").write_bytes(encoded(picture(3, (20, 12), 200)))
    (folder / "text.png").write_text("no image")
    return folder


def example(url: str) -> Any:
    return httpx.get(f"{url}/metadata").json()["exampleObservation"]


def acted(url: str, observation: Any) -> Any:
    body = {"observations": [observation], "deterministic": True}
    return httpx.post(f"{url}/predict", json=body).raise_for_status().json()["actions"]


def test_predict_takes_images(url: str, files: Path, command: Run, tmp_path: Path) -> None:
    """In the example observation, or in the one that is given."""
    seen = example(url)
    options = ["--url", url, "--json", "--image", f"camera.front={files}/front.png"]
    done = command("predict", *options)
    assert done.returncode == 0, done.stderr
    expected = seen | {"camera": {"front": picture(1).tolist()}}
    np.testing.assert_allclose(json.loads(done.stdout)["actions"], acted(url, expected), atol=1e-4)

    options[-1] = f"camera.front={files}/front=1.jpg"
    options += ["--image", f"map={files}/map.png"]
    del seen["camera"]
    (tmp_path / "seen.json").write_text(json.dumps(seen | {"speed": 12.5, "map": None}))
    frames = [f"--field={name}={json.dumps(seen[name])}" for name in ("frames", "planes")]
    expected = seen | {"speed": 12.5, "camera": {"front": decoded(JPEG).tolist()}}
    expected["map"] = picture(3, (20, 12), 200).tolist()
    for given in (["--field", "speed=12.5", *frames], ["--file", str(tmp_path / "seen.json")]):
        done = command("predict", *options, *given)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)["actions"]
        np.testing.assert_allclose(answer, acted(url, expected), atol=1e-4)


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ("front.png", "give LEAF=FILE, where LEAF is one of: camera.front, map"),
        ("rear=front.png", "v1.0.0 has no leaf rear; these take images: camera.front, map"),
        ("camera=front.png", "v1.0.0 has no leaf camera; these take images: camera.front, map"),
        ("speed=front.png", "speed takes no image; these do: camera.front, map"),
        ("frames=front.png", "frames takes no image; these do: camera.front, map"),
        ("map=map.jpg", "map.jpg: No such file or directory"),
        ("camera.front=text.png", "Expected a PNG or JPEG image"),
        ("camera.front=map.png", "Expected an image in RGB of 8 bits, got grey of 8 bits"),
        ("map=front.png", "Expected an image in grey of 8 bits, got RGB of 8 bits"),
    ],
)
def test_predict_tells_what_is_wrong(
    url: str, files: Path, command: Run, image: str, told: str
) -> None:
    leaf, equals, file = image.rpartition("=")
    image = f"{leaf}{equals}{files / file}"
    done = command("predict", "--url", url, "--image", image)
    assert done.returncode == 2
    assert f"Error: --image {image}: " in done.stderr
    assert done.stderr.rstrip().endswith(told)


def test_predict_has_one_place_for_an_image(
    url: str, files: Path, command: Run, tmp_path: Path
) -> None:
    image = f"camera.front={files}/front.png"
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps({"observations": [{}, {}]}))
    for given, told in (
        (["--file", str(rows)], "--file must have one observation"),
        (["--field", "camera=5"], "there is no place for front"),
    ):
        done = command("predict", "--url", url, "--image", image, *given)
        assert done.returncode == 2
        assert told in done.stderr


def test_an_observation_that_is_an_image(files: Path, command: Run, tmp_path: Path) -> None:
    size = tmp_path / "size.png"
    size.write_bytes(encoded(picture(1, (96, 128, 3))))
    with serving(tmp_path, Bare(), BARE) as stack:
        url = stack.gateway_url
        for name, pixels in (("front.png", picture(1)), ("front=1.jpg", decoded(JPEG))):
            done = command("predict", "--url", url, "--json", "--image", str(files / name))
            assert done.returncode == 0, done.stderr
            (answer,) = json.loads(done.stdout)["actions"]
            np.testing.assert_allclose(answer, pixels.mean((0, 1)), rtol=1e-5)
        done = command("predict", "--url", url, "--image", str(size))
        assert done.returncode == 2
        assert "Expected an image of 96 × 96, got 128 × 96" in done.stderr
