"""`carlarl config` and `carlarl keys`, and a `carlarl serve` that follows its file."""

from __future__ import annotations

import hashlib
import json
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import httpx
import pytest

from gateway.config.settings import Settings
from tests.gateway.processes import OBSERVATION, until
from tests.stack import Stack, running_stack

Command = Callable[..., "CompletedProcess[str]"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text("defaults: {port: 9001}\nprofiles: {staging: {max_waiting: 5}}\n")
    return path


def test_what_is_in_force_and_where_it_comes_from(command: Command, file: Path) -> None:
    flags = ("--config", str(file), "--profile", "staging")
    secret = "not-for-anyones-eyes"
    done = command("config", *flags, "--json", LOG_LEVEL="debug", TRITON_SECRET=secret)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert list(told) == list(Settings.model_fields)
    assert told["port"] == {"value": 9001, "source": "file:defaults", "live": False}
    assert told["max_waiting"] == {"value": 5, "source": "file:staging", "live": True}
    assert told["log_level"] == {"value": "debug", "source": "environment", "live": True}
    assert told["profile"]["source"] == "flag"
    assert told["cors_origins"]["value"] == ["*"]
    assert told["triton_secret"]["value"] == "**********"
    table = command("config", *flags, TRITON_SECRET=secret).stdout
    assert "file:staging" in table
    assert secret not in done.stdout + table


def test_no_value_is_cut_where_it_is_piped(carlarl: Command) -> None:
    origins = [f"https://host-{number}.example.org" for number in range(9)]
    done = carlarl("config", CORS_ORIGINS=",".join(origins), COLUMNS="80")
    assert ",".join(origins) in done.stdout
    assert "…" not in done.stdout


def test_a_bad_file(command: Command, file: Path) -> None:
    file.write_text("profiles: {development: {max_waiting: -1}}")
    done = command("config", CONFIG_FILE=str(file))
    assert done.returncode == 1
    assert done.stderr == (
        f"carlarl: CONFIG_FILE={file}: development: max_waiting=-1: must be a whole number from "
        "0 to 1000000\n"
    )
    assert done.stdout == ""


def test_a_new_key(command: Command, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    first = command("keys", "new", "--name", "the lab's", "--file", str(keys))
    assert first.returncode == 0, first.stderr
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    keys.write_text(keys.read_text().rstrip("\n"))  # as an editor may leave it
    second = command("keys", "new", API_KEYS_FILE=str(keys))
    made = [done.stdout.strip() for done in (first, second)]
    digests = [hashlib.sha256(key.encode()).hexdigest() for key in made]
    assert keys.read_text() == f"{digests[0]}  # the lab's\n{digests[1]}\n"
    assert all(len(key) == 43 and key not in keys.read_text() for key in made)
    assert command("keys", "new").returncode == 2
    done = command("keys", "new", "--file", str(tmp_path / "none" / "keys"))
    assert done.returncode == 1
    assert "the key can't be added" in done.stderr
    assert done.stdout == ""


def test_serve_follows_its_file_and_sighup_does_not_end_it(
    stack: Stack, file: Path, tmp_path: Path
) -> None:
    file.write_text("profiles: {staging: {max_body_bytes: 2000}}\n")
    keys = tmp_path / "keys"
    flags = ("--config", str(file), "--profile", "staging", "--workers", "1")
    body = {"observations": [OBSERVATION], "deterministic": True}
    triton = f"http://{stack.triton_http}"
    key = "a-key-that-is-in-no-log"
    keys.write_text(hashlib.sha256(key.encode()).hexdigest())
    with running_stack(*flags, TRITON_URL=triton, REQUEST_TIMEOUT_MS="20000") as one:
        with httpx.Client(base_url=one.gateway_url, headers={"X-API-Key": key}) as client:
            assert client.post("/predict", json=body).status_code == 200
            file.write_text(f"profiles: {{staging: {{api_keys_file: {keys}, workers: 2}}}}\n")
            one.process.send_signal(signal.SIGHUP)
            until(lambda: "now in force: " in one.output())
            assert client.post("/predict", json=body).status_code == 200
            refused = httpx.post(f"{one.gateway_url}/predict", json=body)
            assert refused.status_code == 401
            client.post("/predict", json=body, headers={"X-API-Key": "a-wrong-key"})
            text = refused.text
        assert one.process.poll() is None
        output = one.output()
        assert "stays until a restart: workers" not in output  # the flag wins
        assert "api_keys_file=" in output
        for secret in (key, "a-wrong-key", hashlib.sha256(key.encode()).hexdigest()):
            assert secret not in output + text
        assert "Traceback" not in output
        assert "/" not in text
