"""Policies with a memory through the real gateway and Triton: in tokens, and over streams."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest

from carlarl.cli import main
from converters.artifact import artifact
from gateway.security.state_tokens import kept_secret
from tests.gateway.processes import gateway_process, until
from tests.gateway.streams import Vehicle, metric, stream
from tests.memory import LocalPolicy, lstm_artifact, numbers, observations
from tests.stack import ROOT, Stack, running_stack

VERSIONS = {"v0.1.0": 32, "v0.2.0": 64}
FORGETFUL = "v0.0.1"
"""A version without a memory."""
FILES = ("model.pt", "preprocessor.pkl")
EXACT = 1e-6
SECRETS = ("the-first-secret", "the-second-secret")

Run = Callable[..., subprocess.CompletedProcess[str]]


class Served:
    """A stack with both versions, and what each does in this process."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        self.url = stack.gateway_url
        self.client = httpx.Client(base_url=self.url, timeout=30)
        self.sources = {
            version: lstm_artifact(folder / "local", version, hidden)
            for version, hidden in VERSIONS.items()
        }

    def local(self, version: str = "v0.1.0") -> LocalPolicy:
        return LocalPolicy(self.sources[version])

    def predict(self, seen: list[Any], **options: Any) -> httpx.Response:
        return self.client.post(
            "/predict", json={"observations": seen, "deterministic": True, **options}
        )

    def token(self, version: str = "v0.1.0") -> str:
        (token,) = self.predict(observations(1), version=version).json()["states"]
        assert isinstance(token, str)
        return token


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("memory")
    for version, hidden in VERSIONS.items():
        lstm_artifact(folder / "artifacts", version, hidden)
    lstm_artifact(folder / "artifacts", FORGETFUL, remembers=False)
    where = ["--artifacts", str(folder / "artifacts"), "--repository", str(folder / "repository")]
    main_or_fail(["export", *where, "--activate", "v0.1.0"])
    with running_stack(
        *("--repository", str(folder / "repository"), "--formats", "torchscript"),
        SERVE_VERSIONS=f"v0.2.0,{FORGETFUL}",
        STATE_SECRET=SECRETS[0],
    ) as stack:
        found = Served(stack, folder)
        with found.client:
            yield found


def main_or_fail(arguments: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["carlarl", *arguments])
        main()


@pytest.mark.parametrize("version", VERSIONS)
def test_tokens_carry_the_memory(served: Served, version: str) -> None:
    """Three sessions in one request, whose episodes start at different steps."""
    sessions = [served.local(version) for _ in range(3)]
    states: list[str | None] = [None] * 3
    for step in range(40):
        seen = observations(3, step)
        for index, session in enumerate(sessions):
            if (step + 1) % (7 + index) == 0:
                session.reset()
                states[index] = None
        answer = served.predict(seen, version=version, states=states).json()
        states = answer["states"]
        for session, one, action in zip(sessions, seen, answer["actions"], strict=True):
            assert numbers(action) == pytest.approx(session.act(one), abs=EXACT)


def test_more_rows_than_a_call_takes(served: Served) -> None:
    """Their tokens are many: they are read and signed beside the other requests."""
    seen = observations(300)
    states = served.predict(seen, version="v0.2.0").json()["states"]
    starts = [None if row % 3 == 0 else state for row, state in enumerate(states)]
    answer = served.predict(seen, states=starts).json()
    for row in (0, 1, 2, 255, 256, 257, 299):
        alone = served.predict([seen[row]], states=[starts[row]], version="v0.2.0").json()
        assert (alone["actions"], alone["states"]) == (
            [answer["actions"][row]],
            [answer["states"][row]],
        )
    refused = served.predict(seen, states=[*starts[:-1], flipped(states[-1], 3)])
    assert refused.json()["error"] == "STATE_MISMATCH"
    assert "states.299" in refused.json()["message"]


def test_without_states_all_start_an_episode(served: Served) -> None:
    seen = observations(5)
    for options in ({}, {"states": None}, {"states": [None] * 5}):
        for one, action in zip(
            seen, served.predict(seen, **options).json()["actions"], strict=True
        ):
            assert numbers(action) == pytest.approx(served.local().act(one), abs=EXACT)


def test_a_token_is_the_same_in_msgpack(served: Served) -> None:
    (one,), states = observations(1, 5), [served.token()]
    content = msgspec.msgpack.encode(
        {"observations": [one], "deterministic": True, "states": states}
    )
    answer = served.client.post(
        "/predict", content=content, headers={"Content-Type": "application/msgpack"}
    )
    packed = msgspec.msgpack.decode(answer.content)
    plain = served.predict([one], states=states).json()
    assert packed["actions"] == plain["actions"]
    assert packed["states"] == plain["states"]


def test_sampled_steps_have_their_seeds(served: Served) -> None:
    local, states = served.local(), None
    for step, one in enumerate(observations(10)):
        answer = served.predict([one], deterministic=False, seed=step, states=states).json()
        assert numbers(answer["actions"][0]) == pytest.approx(local.act(one, step), abs=EXACT)
        states = answer["states"]


def test_the_tokens_version_answers(served: Served) -> None:
    token = served.token("v0.2.0")
    answer = served.predict(observations(1), states=[token]).json()
    assert answer["version"] == "v0.2.0"


def flipped(token: str, index: int) -> str:
    other = "A" if token[index] != "A" else "B"
    return token[:index] + other + token[index:][1:]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda token: flipped(token, 0),
        lambda token: flipped(token, 60),
        lambda token: flipped(token, len(token) - 1),
        lambda token: token[:-4],
        lambda token: token[:-1],
        lambda token: token + "AAAA",
        lambda token: token + "=",
        lambda token: token.replace("-", "+").replace("_", "/"),
        lambda token: token[:40] + "\n" + token[40:],
        lambda token: token.swapcase(),
        lambda _: "",
        lambda _: "é\0",
        lambda _: "A" * 100_000,
    ],
)
def test_a_changed_token_is_refused(served: Served, wrong: Callable[[str], str]) -> None:
    token = served.token()
    changed = wrong(token)
    if changed == token:  # it has neither - nor _
        changed = flipped(token, 3)
    for states in ([changed], [None, changed, token]):
        answer = served.predict(observations(len(states)), states=states)
        assert answer.status_code == 409
        assert answer.json()["error"] == "STATE_MISMATCH"
        assert f"states.{states.index(changed)}" in answer.json()["message"]
    with stream(served.url) as vehicle:
        both = vehicle.ask(1, state=token, episodeStart=True)
        assert both["details"]["validation_errors"][0]["field"] == "state"
        assert vehicle.ask(1, state=changed)["error"] == "STATE_MISMATCH"
        assert "action" in vehicle.ask(2)  # the stream goes on


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"states": []}, "states"),
        ({"states": [None, None]}, "states"),
        ({"states": "x"}, "states"),
        ({"states": [1]}, "states.0"),
        ({"states": {"a": None}}, "states"),
    ],
)
def test_states_of_another_form(served: Served, options: dict[str, Any], field: str) -> None:
    answer = served.predict(observations(1), **options)
    assert answer.status_code == 422
    assert answer.json()["details"]["validation_errors"][0]["field"] == field


def test_of_other_versions(served: Served) -> None:
    first, second = served.token("v0.1.0"), served.token("v0.2.0")
    for states, version in (([first, second], None), ([first, None], "v0.2.0")):
        answer = served.predict(observations(2), states=states, version=version)
        assert answer.json()["error"] == "STATE_MISMATCH", answer.text


def test_a_policy_without_memory_gives_no_states(stack: Stack, served: Served) -> None:
    body = {"observations": observations(1), "deterministic": True, "states": [None]}
    answer = httpx.post(f"{stack.gateway_url}/predict", json=body)
    assert answer.status_code == 200
    assert "states" not in answer.json()
    foreign = httpx.post(f"{stack.gateway_url}/predict", json=body | {"states": [served.token()]})
    assert foreign.json()["error"] == "STATE_MISMATCH"
    with stream(stack.gateway_url) as vehicle:
        assert "state" not in vehicle.ask(1, returnState=True)


def check(answer: dict[str, Any], local: LocalPolicy, one: Any) -> None:
    assert numbers(answer["action"]) == pytest.approx(local.act(one), abs=EXACT)


def ask(vehicle: Vehicle, step: int, one: Any, **more: Any) -> dict[str, Any]:
    return vehicle.ask(step, observation=one, deterministic=True, **more)


@pytest.mark.parametrize("packed", [False, True])
def test_a_stream_remembers(served: Served, packed: bool) -> None:
    local = served.local()
    with stream(served.url, packed=packed) as vehicle:
        for step, one in enumerate(observations(60)):
            start = {"episodeStart": True} if step % 13 == 5 else {}
            if start:
                local.reset()
            check(ask(vehicle, step, one, **start), local, one)


def test_a_refused_step_leaves_the_memory(served: Served) -> None:
    first, second, third = observations(3)
    local = served.local()
    with stream(served.url) as vehicle:
        check(ask(vehicle, 1, first), local, first)
        assert ask(vehicle, 2, {**second, "speed": 1e9})["error"] == "VALIDATION_ERROR"
        assert vehicle.ask(3, version="v9.9.9")["error"] == "STATE_MISMATCH"
        assert vehicle.ask(3, seed=-1)["error"] == "VALIDATION_ERROR"
        check(ask(vehicle, 4, second), local, second)
        refused = ask(vehicle, 5, {**third, "speed": 1e9}, episodeStart=True)
        assert refused["error"] == "VALIDATION_ERROR"
        local.reset()  # an episode that was to start does so with the next step
        check(ask(vehicle, 6, third), local, third)


def test_a_step_that_is_refused_for_its_rate_starts_the_episode_all_the_same(
    served: Served,
) -> None:
    first, second, third = observations(3)
    variables = {"TRITON_URL": f"http://{served.stack.triton_http}", "RATE_LIMIT_PER_S": "1"}
    local = served.local()
    with (
        gateway_process(RATE_LIMIT_BURST="4", **variables) as url,
        stream(url) as vehicle,
    ):
        for one in (first, second):
            check(ask(vehicle, 1, one), local, one)
        until(lambda: ask(vehicle, 2, first, episodeStart=True).get("error") is not None)
        time.sleep(1.5)
        check(ask(vehicle, 3, third), served.local(), third)


def test_a_late_step_leaves_the_memory(served: Served) -> None:
    """Its model stands still for a moment, and answers after the deadline."""
    (model,) = (
        one
        for one in psutil.Process(served.stack.process.pid).children(recursive=True)
        if "stub" in one.name() and "carla_policy_fused-v0.1.0" in " ".join(one.cmdline())
    )
    seen, local = observations(4), served.local()
    with stream(served.url, additional_headers={"X-Deadline-Ms": "100"}) as vehicle:
        check(ask(vehicle, 1, seen[0]), local, seen[0])
        model.suspend()
        try:
            late = ask(vehicle, 2, seen[1], episodeStart=True)
        finally:
            model.resume()
        assert late["error"] == "DEADLINE_EXCEEDED"
        local.reset()
        until(lambda: served.predict(seen[:1]).status_code == 200)
        for step in (2, 3):
            check(ask(vehicle, step, seen[step]), local, seen[step])


def test_a_stream_of_both_kinds(served: Served) -> None:
    """Without a memory it follows the alias; from there on the policy remembers."""
    seen, local = observations(4), served.local()
    with stream(served.url) as vehicle:
        assert ask(vehicle, 1, seen[0], version=FORGETFUL)["version"] == FORGETFUL
        for step in (1, 2):
            answer = ask(vehicle, step, seen[step])
            assert answer["version"] == "v0.1.0"
            check(answer, local, seen[step])
        refused = ask(vehicle, 3, seen[3], version=FORGETFUL)
        assert refused["error"] == "STATE_MISMATCH"


def test_a_full_batch_of_tokens_fits(served: Served) -> None:
    token = served.token()
    answer = served.predict(observations(256), states=[token] * 256)
    assert len(answer.json()["states"]) == 256


def test_skipped_steps_leave_the_memory(served: Served) -> None:
    """Each burst is overtaken by its last step; one that was overtaken starts an episode."""
    local, step = served.local(), 0
    with stream(served.url) as vehicle:
        for burst in range(30):
            seen = observations(4, burst)
            starts = burst % 5 == 2
            for index, one in enumerate(seen):
                more = {"episodeStart": True} if starts and index == 1 else {}
                vehicle.send(step + index, observation=one, deterministic=True, **more)
            answers = {answer["stepId"]: answer for answer in (vehicle.receive() for _ in seen)}
            for index, one in enumerate(seen):
                if starts and index == 1:
                    local.reset()
                if "action" in answers[step + index]:
                    check(answers[step + index], local, one)
            step += len(seen)
        assert metric(served.url, "carla_rl_skipped_total") > 0


def test_a_refused_start_leaves_the_steps_before_it(served: Served) -> None:
    """The step that waits when it comes still belongs to the episode that was."""
    local = served.local()
    with stream(served.url) as vehicle:
        for burst in range(20):
            first, second, third = observations(3, burst)
            vehicle.send(1, observation=first, deterministic=True)
            vehicle.send(2, observation=second, deterministic=True)
            vehicle.send(3, observation={}, episodeStart=True)
            answers = {answer["stepId"]: answer for answer in (vehicle.receive() for _ in "123")}
            assert answers[3]["error"] == "VALIDATION_ERROR"
            for step, one in ((1, first), (2, second)):
                if "action" in answers[step]:
                    check(answers[step], local, one)
            local.reset()
            check(ask(vehicle, 4, third), local, third)


def test_a_frame_that_contradicts_itself_or_its_episode(served: Served) -> None:
    (one,), token = observations(1), served.token("v0.1.0")
    with stream(served.url) as vehicle:
        both = ask(vehicle, 1, one, state=token, episodeStart=True)
        assert both["error"] == "VALIDATION_ERROR"
        assert both["details"]["validation_errors"][0]["field"] == "state"
        check(ask(vehicle, 2, one), served.local(), one)
        assert ask(vehicle, 3, {}, state=token)["error"] == "VALIDATION_ERROR"
        assert ask(vehicle, 4, one, version="v0.2.0")["error"] == "STATE_MISMATCH"
        assert ask(vehicle, 5, one)["version"] == "v0.1.0"


def test_streams_that_end_in_a_step_are_not_counted(served: Served) -> None:
    token = served.token("v0.2.0")
    with stream(served.url) as waiting:
        waiting.ask(1, state=token)
        for _ in range(20):
            with stream(served.url) as vehicle:
                vehicle.ask(1, state=token)
                vehicle.send(2)
        until(lambda: metric(served.url, "carla_rl_streams ") == 1)
        until(lambda: metric(served.url, "carla_rl_streams_behind") == 1)


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff\xfe" * 20])
def test_a_kept_secret_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """A disk that was full or a power cut left it so. It must sign nothing."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    made = kept_secret()
    assert kept_secret() == made
    (tmp_path / "carlarl" / "state_secret").write_bytes(content)
    drawn = kept_secret()
    assert len(drawn) == len(made)
    assert drawn not in (made, kept_secret())


def test_resumed_elsewhere(served: Served) -> None:
    """The gateway is lost in an episode; another one with the same secret goes on."""
    variables = {"TRITON_URL": f"http://{served.stack.triton_http}"}
    both = f"{SECRETS[1]},{SECRETS[0]}"
    seen, local = observations(30), served.local()
    with ExitStack() as running:
        lost = running.enter_context(gateway_process(STATE_SECRET=SECRETS[0], **variables))
        with stream(lost) as vehicle:
            for step, one in enumerate(seen[:10]):
                answer = ask(vehicle, step, one, returnState=True)
                check(answer, local, one)
    with (
        gateway_process(STATE_SECRET=both, **variables) as rotated,
        gateway_process(STATE_SECRET=SECRETS[1], WORKERS="2", **variables) as renewed,
    ):
        with stream(rotated) as vehicle:
            check(ask(vehicle, 10, seen[10], state=answer["state"]), local, seen[10])
            for step, one in enumerate(seen[11:20], 11):
                following = ask(vehicle, step, one, returnState=True)
                check(following, local, one)
        with stream(renewed) as vehicle:
            refused = ask(vehicle, 20, seen[20], state=answer["state"])
            assert refused["error"] == "STATE_MISMATCH"  # of the old secret
            check(ask(vehicle, 20, seen[20], state=following["state"]), local, seen[20])
        state = following["state"]
        answer = httpx.post(  # and over /predict
            f"{renewed}/predict",
            json={"observations": [seen[20]], "deterministic": True, "states": [state]},
        ).json()
        with stream(rotated) as vehicle:
            same = ask(vehicle, 1, seen[20], state=state)
        assert answer["actions"] == [same["action"]]


@pytest.mark.parametrize("begun", [False, True])
def test_a_promotion_waits_for_the_next_episode(served: Served, command: Run, begun: bool) -> None:
    """A stream stays with its version until it starts an episode; rollbacks are the same."""
    where = ("--repository", str(served.folder / "repository"))
    seen = iter(observations(40))
    local = {version: served.local(version) for version in VERSIONS}
    old, new = "v0.1.0", "v0.2.0"
    with stream(served.url) as vehicle:
        step = 0

        def drive(version: str, **more: Any) -> None:
            nonlocal step
            step, one = step + 1, next(seen)
            answer = ask(vehicle, step, one, **more)
            assert answer["version"] == version
            check(answer, local[version], one)

        for index in range(5):
            drive(old, **({"episodeStart": True} if begun and not index else {}))
        for word, before, after in (("promote", old, new), ("rollback", new, old)):
            arguments = (word, *([after] if word == "promote" else []), *where)
            done = command(*arguments)
            assert done.returncode == 0, done.stderr
            until(lambda: served.client.get("/metadata").json()["version"] == after)  # noqa: B023
            for _ in range(5):
                drive(before)
            assert metric(served.url, "carla_rl_streams_behind") == 1
            local[after].reset()
            drive(after, episodeStart=True)
            assert metric(served.url, "carla_rl_streams_behind") == 0
            for _ in range(5):
                drive(after)


def test_a_version_that_is_gone(served: Served, command: Run) -> None:
    token = served.token("v0.2.0")
    where = ("--repository", str(served.folder / "repository"))
    with stream(served.url) as vehicle:
        assert vehicle.ask(1, version="v0.2.0")["version"] == "v0.2.0"
        done = command("unload", "v0.2.0", *where)
        assert done.returncode == 0, done.stderr
        try:
            until(lambda: "error" in served.predict(observations(1), states=[token]).json())
            refused = served.predict(observations(1), states=[token]).json()
            assert refused["error"] == "STATE_MISMATCH"
            assert "v0.2.0, which is not served: start an episode" in refused["message"]
            assert vehicle.ask(2)["error"] == "STATE_MISMATCH"
            assert vehicle.ask(3, episodeStart=True)["version"] == "v0.1.0"
        finally:
            done = command("load", "v0.2.0", *where)
            assert done.returncode == 0, done.stderr


def test_a_stream_that_comes_to_remember(served: Served, carlarl: Run) -> None:
    """A stream of a policy without a memory follows the alias to one with a memory."""
    stateless = artifact.load(ROOT / "artifacts" / "v0.1.0")
    folder = served.folder / "stateless"
    card = stateless.card.model_copy(update={"version": "v0.3.0"})
    files = [(ROOT / "artifacts" / "v0.1.0" / name).read_bytes() for name in FILES]
    artifact.create(folder / "v0.3.0", card, *files, None, lambda written: None)
    where = ("--repository", str(served.folder / "repository"))
    for arguments in (("export", "--artifacts", str(folder)), ("load", "v0.3.0")):
        done = carlarl(*arguments, *where)
        assert done.returncode == 0, done.stderr
    first, second, third = observations(3)
    local = served.local()
    with stream(served.url) as vehicle:
        assert ask(vehicle, 1, first, version="v0.3.0")["version"] == "v0.3.0"
        for step, one in enumerate((second, third), 2):
            check(ask(vehicle, step, one), local, one)


def test_a_stateless_stream_that_names_its_episodes_changes_there(
    stack: Stack, served: Served
) -> None:
    """What the metadata says of both, and a stream of a policy without memory."""
    assert served.client.get("/metadata").json()["stateful"] is True
    assert httpx.get(f"{stack.gateway_url}/metadata").json()["stateful"] is False
    with stream(stack.gateway_url) as vehicle:
        assert vehicle.ask(1)["version"] == "v0.2.0"
        assert vehicle.ask(2, episodeStart=True, version="v0.1.0")["version"] == "v0.1.0"
        assert vehicle.ask(3)["version"] == "v0.1.0"
        assert vehicle.ask(4, episodeStart=True)["version"] == "v0.2.0"
        assert vehicle.ask(5, version="v0.1.0")["version"] == "v0.1.0"
