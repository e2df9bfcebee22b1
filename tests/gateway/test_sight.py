"""Images from the command line and in the console, with a real Triton that sees them."""

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

from policy_spec.parsing import parse_space
from policy_spec.validate import pack
from tests.browser import Browser
from tests.gateway.image_files import JPEG, PNG, decoded, encoded, picture
from tests.gateway.test_console_page import CONTRASTS, change, says, text
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
        (["--version", "v9.0.0"], "the active version alone decodes files, and that is v1.0.0"),
    ):
        done = command("predict", "--url", url, "--image", image, *given)
        assert done.returncode == 2
        assert told in done.stderr


def test_an_observation_that_is_an_image(
    page: Browser, files: Path, command: Run, tmp_path: Path
) -> None:
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

        page.open(f"{url}/console", 1200)
        page.wait(says("try-note", "v1.0.0"))
        choose(page, "observation", files / "front.png")
        expected = str(acted(url, picture(1).tolist())[0][0])[:6]
        page.wait(says("try-own", expected), 10)


def figure(name: str) -> str:
    """The picture of an image, as an expression."""
    title = f"f.querySelector('strong').textContent === {name!r}"
    return f"[...document.querySelectorAll('figure')].find(f => {title})"


def choose(page: Browser, name: str, file: Path) -> None:
    """Do what a user does who chooses a file."""
    found = page.call("Runtime.evaluate", expression=f"{figure(name)}.querySelector('input')")
    page.call("DOM.setFileInputFiles", files=[str(file)], objectId=found["result"]["objectId"])


def drop(page: Browser, name: str, file: Path) -> None:
    """Drop a file on an image."""
    canvas = f"{figure(name)}.querySelector('canvas')"
    page.evaluate(f"{canvas}.scrollIntoView()")
    box = page.evaluate(f"(b => [b.x + 9, b.y + 9])({canvas}.getBoundingClientRect())")
    data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        page.call("Input.dispatchDragEvent", type=kind, x=box[0], y=box[1], data=data)


def drawn(page: Browser, name: str) -> list[np.ndarray]:
    """What the canvases show: each of shape (height, width, 3)."""
    found = page.evaluate(
        f"""[...{figure(name)}.querySelectorAll("canvas")].map((canvas) => {{
          const {{ width, height }} = canvas;
          const copy = new OffscreenCanvas(width, height).getContext("2d");
          copy.drawImage(canvas, 0, 0);
          const {{ data }} = copy.getImageData(0, 0, width, height);
          return [height, width, [...data]];
        }})"""
    )
    pictures = [np.reshape(data, (height, width, 4)) for height, width, data in found]
    assert all((one[..., 3] == 255).all() for one in pictures)
    return [one[..., :3] for one in pictures]


def test_the_console_draws_what_the_policy_sees(page: Browser, url: str) -> None:
    """Grey, colours in the card's order, and planes side by side; what is drawn is sent."""
    seen = example(url)
    page.open(f"{url}/console", 1200)
    page.wait(says("try-note", "v1.0.0"))
    captions = page.evaluate("[...document.querySelectorAll('figcaption')].map(e => e.textContent)")
    assert captions == [
        "camera.front 96 × 96, BGR",
        "map 12 × 20, grey",
        "frames 84 × 84, 4 channels",
        "planes 16 × 9, 2 channels",
    ]
    (front,), (shown,) = drawn(page, "camera.front"), drawn(page, "map")
    pixels = {
        name: np.frombuffer(content, np.uint8).astype(float)
        for name, content in pack(parse_space(SPACE, "space"), seen).items()
    }
    np.testing.assert_array_equal(front[..., ::-1].ravel(), pixels["camera.front"])
    for channel in range(3):
        scaled = np.rint(pixels["map"] * 255 / 200)
        np.testing.assert_array_equal(shown[..., channel].ravel(), scaled)
    frames = np.stack([one[..., 0] for one in drawn(page, "frames")], -1)
    np.testing.assert_array_equal(frames.ravel(), pixels["frames"])
    planes = np.stack([one[..., 2] for one in drawn(page, "planes")])
    np.testing.assert_array_equal(planes.ravel(), pixels["planes"] * 255)
    assert json.loads(page.evaluate("document.getElementById('try-json').value")) == {
        **dict.fromkeys(seen), "camera": {"front": None}, "speed": seen["speed"],
    }  # fmt: skip
    assert shown_action(page) == pytest.approx(acted(url, seen)[0], abs=1e-4)


def shown_action(page: Browser) -> Any:
    return json.loads(text(page, "try-own"))


def test_the_console_takes_files(page: Browser, url: str, files: Path) -> None:
    """Chosen, dropped, or in the text; the answer is of what is drawn."""
    seen = example(url)
    page.open(f"{url}/console", 1200)
    page.wait(says("try-note", "v1.0.0"))

    def check(name: str, pixels: np.ndarray, atol: float = 0) -> None:
        (expected,) = acted(url, seen)
        page.wait(f"Math.abs(JSON.parse({own})[0] - {expected[0]}) < 1e-3", 10)
        assert shown_action(page) == pytest.approx(expected, abs=1e-3)
        assert text(page, "try-error") == ""
        np.testing.assert_allclose(drawn(page, name)[0], pixels, atol=atol)

    own = "document.getElementById('try-own').textContent"
    choose(page, "camera.front", files / "front.png")
    seen["camera"]["front"] = picture(1).tolist()
    check("camera.front", picture(1)[..., ::-1])
    drop(page, "camera.front", files / "front=1.jpg")
    seen["camera"]["front"] = decoded(JPEG).tolist()
    check("camera.front", decoded(JPEG)[..., ::-1], atol=3)
    other = picture(4, (20, 12), 200)
    seen["map"] = other.tolist()
    change(page, "try-json", json.dumps(seen | {"camera": {"front": None}}))
    page.evaluate("document.querySelector('#try-text button').click()")
    check("map", np.rint(other[..., None] * 255.0 / 200) + np.zeros(3))
    assert "null" in page.evaluate("document.getElementById('try-json').value")

    for file, told in (("map.png", "got grey of 8 bits"), ("text.png", "Expected a JPEG image")):
        choose(page, "camera.front", files / file)
        page.wait(says("try-error", told), 10)
        assert "observations.0.camera.front" in text(page, "try-error")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_images_can_be_read(page: Browser, url: str, width: int, scheme: str) -> None:
    page.open(f"{url}/console", width, scheme)
    page.wait(says("try-note", "v1.0.0"))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 20
    assert [one for one in contrasts if one[0] < 4.5] == []
