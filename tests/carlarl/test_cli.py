"""The command line against the running stack."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from carlarl.cli import cli
from tests.stack import Stack, free_ports

Run = Callable[..., subprocess.CompletedProcess[str]]

OBSERVATION = {"speed": 25.5, "steering": 0.1, "sensors": [0.8, 0.2, 0.5, 0.9, 0.1]}
FLAGS = ("--speed", "25.5", "--steering", "0.1", "--sensors", "0.8,0.2,0.5,0.9,0.1")


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_help_has_an_example(name: str, command: Run) -> None:
    result = command(name, "--help")
    assert result.returncode == 0
    assert f"Example: carlarl {name}" in result.stdout


def test_help_cuts_nothing(command: Run) -> None:
    told = command("--help").stdout
    assert "..." not in told.partition("Commands:")[2]
    for one in cli.commands.values():
        assert "".join(one.get_short_help_str(999).split()) in "".join(told.split())


@pytest.mark.parametrize("command_name", ["import-sb3", "import-torchscript"])
def test_an_importer_makes_no_folder_by_itself(
    tmp_path: Path, carlarl: Run, command_name: str
) -> None:
    policy, missing = tmp_path / "policy.zip", tmp_path / "artifacts"
    policy.write_bytes(b"")
    options = ["--version", "v9.0.0"] + ["--sensors", "5"] * (command_name != "import-sb3")
    done = carlarl(command_name, str(policy), *options, ARTIFACT_DIR=str(missing))
    assert done.returncode == 1
    assert f"{missing}: no such folder: say --artifacts {missing} to make it" in done.stderr
    assert not missing.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["predict"],
        ["predict", "--speed", "fast"],
        ["predict", *FLAGS[:4], "--sensors", "one"],
        ["predict", *FLAGS[:4], "--sensors", "1,nan,1,1,1"],
        ["predict", *FLAGS, "--url", "localhost:8080"],
        ["predict", *FLAGS, "--file", "-"],
        ["predict", *FLAGS, "--observation", "[1]"],
        ["predict", "--observation", "[1,"],
        ["predict", "--observation", ""],
        ["predict", "--field", "speed"],
        ["predict", "--field", "speed=1,x"],
        ["predict", "--field", "speed=1", "--field", "speed.front=1"],
        ["export", "--formats", "caffe"],
        ["export", "--version", "latest"],
        ["drive", "--output", "no/such/folder/drive.png"],
        ["drive", "--url", "localhost:8080"],
        ["drive", "--stochastic", "--seed", "-5"],
        ["drive", "--latency", "0,soon"],
        ["drive", "--latency", "-1"],
        ["promote", "v0.1.0", "--offline", "--triton", "http://127.0.0.1:1"],
    ],
)
def test_bad_use_is_status_2(command: Run, arguments: list[str]) -> None:
    result = command(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("Usage: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["versions", "--repository", "no/such/repository"],
        ["promote", "v0.1.0", "--offline", "--repository", "no/such/repository"],
        ["serve", "--repository", "no/such/repository", "--port", "0"],
        ["config", "--config", "no/such/file.yaml"],
        ["sign", "v0.2.0", "--key", "README.md"],
        ["validate", "--artifacts", "no/such/artifacts"],
        ["import-torchscript", "README.md", "--version", "v0.3.0", "--sensors", "5"],
        ["bench", "run", "--url", "http://127.0.0.1:1"],
        ["bench", "compare", "no/such/results.json"],
        ["tune", "--repository", "no/such/repository"],
    ],
)
def test_what_fails_is_one_line_and_status_1(carlarl: Run, arguments: list[str]) -> None:
    """Whichever folder the error comes from."""
    result = carlarl(*arguments)
    assert result.returncode == 1
    assert result.stderr.startswith("carlarl: ")
    assert result.stderr.count("\n") == 1


def test_predict(stack: Stack, command: Run, tmp_path: Path) -> None:
    url = ("--url", stack.gateway_url)
    from_flags = json.loads(command("predict", *FLAGS, *url, "--json").stdout)
    assert from_flags["version"] == "v0.2.0"
    assert from_flags["deterministic"] is True
    for content in (OBSERVATION, {"observations": [OBSERVATION], "deterministic": True}):
        file = tmp_path / "observation.json"
        file.write_text(json.dumps(content))
        answer = json.loads(command("predict", "--file", str(file), *url, "--json").stdout)
        assert answer["actions"] == from_flags["actions"]
    for flags in (
        ("--field", "speed=25.5", "--steering", "0.1", "--field", "sensors=0.8,0.2,0.5,0.9,0.1"),
        ("--field", "speed=25.5", "--field", "steering=.1", "--sensors", ".8,.2,0.5,.9,0.1"),
        ("--observation", json.dumps(OBSERVATION)),
    ):
        answer = json.loads(command("predict", *flags, *url, "--json").stdout)
        assert answer["actions"] == from_flags["actions"]
    text = command("predict", *FLAGS, *url)
    assert text.stdout.startswith("throttle +")
    seeded = [
        json.loads(command("predict", *FLAGS, *url, "--seed", "7", "--json").stdout) for _ in "12"
    ]
    assert seeded[0]["actions"] == seeded[1]["actions"]
    assert seeded[0]["seed"] == 7
    old = json.loads(command("predict", *FLAGS, *url, "--version", "v0.1.0", "--json").stdout)
    assert old["version"] == "v0.1.0"
    assert old["actions"] != from_flags["actions"]


def test_predict_says_what_the_gateway_says(stack: Stack, carlarl: Run) -> None:
    bad = carlarl("predict", "--speed", "900", *FLAGS[2:], "--url", stack.gateway_url)
    assert bad.returncode == 1
    assert "VALIDATION_ERROR" in bad.stderr
    assert bad.stderr.count("observations.0.speed") == 1
    missing = carlarl("predict", *FLAGS, "--version", "v7.0.0", "--url", stack.gateway_url)
    assert missing.returncode == 1
    assert "MODEL_NOT_FOUND" in missing.stderr


def test_nobody_there(command: Run) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    for arguments in (["predict", *FLAGS], ["warmup"], ["drive", "--laps", "1"]):
        result = command(*arguments, "--url", url)
        assert result.returncode == 1
        assert url in result.stderr
        assert "Traceback" not in result.stderr


def test_warmup(stack: Stack, carlarl: Run) -> None:
    answer = json.loads(carlarl("warmup", "--url", stack.gateway_url, "--json").stdout)
    assert (answer["status"], answer["device"]) == ("warmed", "cpu")
    here = {
        "PORT": stack.gateway_url.rpartition(":")[2],
        "http_proxy": f"http://127.0.0.1:{free_ports(1)[0]}",
    }
    assert carlarl("warmup", **here).stdout.startswith("warmed in ")


def test_versions(carlarl: Run) -> None:
    table = carlarl("versions").stdout
    assert "v0.1.0" in table
    assert "v0.2.0" in table
    found = json.loads(carlarl("versions", "--json").stdout)
    assert [(one["version"], one["active"]) for one in found] == [
        ("v0.1.0", False),
        ("v0.2.0", True),
    ]
    assert found[1]["metrics"]["success_rate"] == 1.0


def test_export(command: Run, tmp_path: Path) -> None:
    target = ("--repository", str(tmp_path / "repository"))
    result = command("export", *target, "--version", "v0.1.0", "--formats", "onnx", "--json")
    assert json.loads(result.stdout) == {"versions": ["v0.1.0"], "active": "v0.1.0"}
    result = command("export", *target, "--activate", "v0.2.0")
    assert "wrote v0.1.0, v0.2.0; active is v0.2.0" in result.stdout
    for arguments, message in (
        (["--version", "v9.0.0"], "model_card.yaml: no such file"),
        (["--artifacts", str(tmp_path / "none")], "no such folder of artifacts"),
        (["--activate", "v9.0.0"], "v9.0.0"),
    ):
        result = command("export", *target, *arguments)
        assert result.returncode == 1
        assert message in result.stderr


def test_drive_with_latency(stack: Stack, carlarl: Run, tmp_path: Path) -> None:
    url = ("--url", stack.gateway_url)
    picture = tmp_path / "latency.png"
    result = carlarl(
        "drive", "--laps", "1", "--latency", "20", *url, "--json", "--output", str(picture)
    )
    assert result.returncode == 0, result.stderr
    (told,) = json.loads(result.stdout)
    assert (told["name"], told["version"], told["laps"]) == ("20 ms", "v0.2.0", 1)
    assert told["offTrack"] == 0
    assert picture.stat().st_size > 10_000


def test_drive_three_laps(stack: Stack, carlarl: Run, tmp_path: Path) -> None:
    """The closed loop through the whole stack: JSON, gateway, Triton, and back."""
    picture = tmp_path / "drive.png"
    url = ("--url", stack.gateway_url)
    result = carlarl("drive", "--laps", "3", *url, "--json", "--output", str(picture))
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["version"], told["laps"], told["offTrack"]) == ("v0.2.0", 3, 0)
    assert told["latencyMs"]["p50"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("content", ["", "{", "NaN", "[1e999]", "[" * 100_000])
def test_a_file_that_is_no_request(command: Run, tmp_path: Path, content: str) -> None:
    file = tmp_path / "request.json"
    file.write_text(content)
    result = command("predict", "--file", str(file))
    assert result.returncode == 2
    assert "--file" in result.stderr
    assert "Traceback" not in result.stderr


def test_something_else_answers(stack: Stack, command: Run) -> None:
    result = command("warmup", "--url", f"http://{stack.triton_http}")
    assert result.returncode == 1
    assert "no gateway" in result.stderr or "no JSON" in result.stderr
