"""The console in a real browser, in front of the real gateway and Triton."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from carlarl.promotion import promote
from carlarl.promotion.triton_control import TritonControl
from converters.export.export import export
from examples.track import TrackEnv
from tests.browser import Browser
from tests.converters.policies_of_spaces import make
from tests.gateway.processes import until
from tests.stack import ROOT, Stack, running_stack

KEY = "a-key-of-this-test"


def text(page: Browser, name: str) -> str:
    told: str = page.evaluate(f"document.getElementById('{name}').textContent")
    return told


def number(page: Browser, name: str) -> int:
    return int(text(page, name).replace("\u202f", ""))


def says(name: str, what: str) -> str:
    return f"document.getElementById({name!r}).textContent.includes({what!r})"


def change(page: Browser, name: str, value: Any) -> None:
    """Do what a user does who sets a control."""
    page.evaluate(
        f"{{ const e = document.getElementById('{name}'); e.value = {json.dumps(value)};"
        " for (const type of ['input', 'change'])"
        " e.dispatchEvent(new Event(type, {bubbles: true})) }"
    )


def press(page: Browser, key: str, code: int, typed: str = "") -> None:
    told = {"key": key, "windowsVirtualKeyCode": code}
    page.call("Input.dispatchKeyEvent", type="keyDown", text=typed, **told)
    page.call("Input.dispatchKeyEvent", type="keyUp", **told)


def test_the_track_is_the_environment_s(page: Browser, stack: Stack) -> None:
    """Step for step: the same positions, observations, laps and times off track."""
    random = np.random.default_rng(8)
    t = np.arange(1500)[:, None]
    drift = np.sin(t / (37.0, 23.0, 11.0)) * (0.6, 0.3, 0.6) + (0.5, 0.0, 0.0)
    actions = np.clip(drift + random.normal(0, 0.25, drift.shape), -1.2, 1.2)
    env = TrackEnv(put_back=True, max_steps=None)
    env.reset(options={"start": 321.0})
    expected = []
    for action in actions:
        observation, _, _, _, info = env.step(action.astype(np.float32))
        laps = len(info["lap_times"])
        state = (env.x, env.y, env.heading, info["progress"], info["off_track"], laps)
        expected.append([*state, *observation.tolist()])
    assert expected[-1][4] > 5

    page.open(stack.gateway_url + "/console", 1200)
    driven = page.evaluate(
        f"""import("/console/track.js").then(({{ Track, Car }}) => {{
          const car = new Car(new Track(), 321);
          return {json.dumps(actions.tolist())}.map(([throttle, brake, steer]) => {{
            car.step({{ throttle, brake, steer }});
            const {{ speed, steering, sensors }} = car.observation();
            return [car.x, car.y, car.heading, car.progress, car.offTrack, car.lapTimes.length,
              speed, steering, ...sensors];
          }});
        }})"""
    )
    np.testing.assert_allclose(driven, expected, rtol=0, atol=1e-6)


def test_a_car_completes_a_lap_and_the_numbers_move(page: Browser, stack: Stack) -> None:
    page.open(stack.gateway_url + "/console?speed=8&cars=2", 1200)
    page.wait(says("state", "Driving"))
    speeds = {page.wait("document.getElementById('car-speed').textContent") for _ in range(3)}
    page.wait("Number(document.getElementById('car-laps').textContent) >= 1")
    assert number(page, "answers") > 500
    assert 30 < float(text(page, "car-last").split()[0]) < 120  # 42 where no answer is late
    assert number(page, "errors") == 0
    speeds.add(text(page, "car-speed"))
    assert len(speeds) > 1
    cells = page.evaluate("[...document.querySelectorAll('#latency td')].map(e => e.textContent)")
    assert [len(cell.split(".")[1]) for cell in cells] == [1, 1, 1, 2, 2, 2]
    p50, p95, p99, *inside = map(float, cells)
    assert page.evaluate(says("latency", "Of the last 1\u202f000 answers"))
    assert 0 < p50 <= p95 <= p99
    assert 0 < inside[0] <= inside[1] <= inside[2]
    assert inside[0] < p50
    rows = page.evaluate("[...document.querySelectorAll('#fleet tbody tr')].map(e => e.innerText)")
    assert len(rows) == 2
    assert all("v0.2.0" in row for row in rows)
    assert any(url.endswith("/stream") for url in page.asked())


def test_what_is_not_connected_yet_misses_nothing(page: Browser, stack: Stack) -> None:
    """A fleet that drives before its connections are open, as it does at each start."""
    page.open(stack.gateway_url + "/console", 1200)
    missed, counted, answers, steps = page.evaluate(
        """Promise.all([import("/console/fleet.js"), import("/console/service.js")]).then(
          async ([{ Fleet }, { Service }]) => {
            const fleet = new Fleet(new Service(), { failed() {}, lost() {} });
            const pause = (ms) => new Promise((done) => setTimeout(done, ms));
            fleet.resize(20);
            fleet.drive();
            await pause(500);
            const early = [fleet.drivers[0].missed, fleet.figures.fallback];
            fleet.connect();
            while (!fleet.drivers.every((one) => one.version)) await pause(10);
            const { figures, drivers } = fleet;
            fleet.pause();
            fleet.close();
            return [...early, figures.count, drivers.reduce((sum, one) => sum + one.car.steps, 0)];
          })"""
    )
    assert missed == counted == 0
    assert answers >= 20
    assert steps > 0


def test_the_switch_changes_who_answers_and_promotes_nothing(page: Browser, stack: Stack) -> None:
    page.open(stack.gateway_url + "/console", 1200)
    page.wait(says("car-version", "v0.2.0"))
    options = page.evaluate("[...document.getElementById('version').options].map(o => o.value)")
    assert options == ["", "v0.1.0", "v0.2.0"]
    change(page, "version", "v0.1.0")
    page.wait(says("car-version", "v0.1.0"))
    page.wait(says("try-note", "v0.1.0"))
    assert httpx.get(stack.gateway_url + "/versions").json()["active"] == "v0.2.0"
    change(page, "version", "")
    page.wait(says("car-version", "v0.2.0"))


def test_the_sliders_give_the_action_of_predict(page: Browser, stack: Stack) -> None:
    page.open(stack.gateway_url + "/console", 1200)
    page.wait(says("try-note", "deterministic"))
    observation = {"speed": 61.5, "steering": -0.25, "sensors": [0.31, 0.42, 0.97, 0.15, 0.09]}
    for name, value in (("speed", 61.5), ("steering", -0.25)):
        change(page, f"try-{name}", value)
    for i, value in enumerate(observation["sensors"], 1):
        change(page, f"try-sensor-{i}", value)

    def check(noted: str, **more: Any) -> None:
        content = {"observations": [observation], **more}
        answer = httpx.post(stack.gateway_url + "/predict", json=content).json()
        shown = [f"{value:.3f}".replace("-", "−") for value in answer["actions"][0].values()]
        values = "[...document.querySelectorAll('#try-action .value')].map(e => e.textContent)"
        page.wait(f"{says('try-note', noted)} && {values}.join() === {','.join(shown)!r}", 10)

    check("deterministic", deterministic=True)
    page.evaluate("document.getElementById('try-deterministic').click()")
    change(page, "try-seed", 11)
    check("seed 11", seed=11)
    change(page, "try-seed", -1)
    page.wait(says("try-error", "VALIDATION_ERROR"))
    change(page, "try-seed", "")
    page.wait(f"{says('try-note', 'seed')} && !{says('try-error', 'ERROR')}")


def test_an_error_shows_as_one_and_goes(page: Browser, stack: Stack) -> None:
    page.open(stack.gateway_url + "/console?version=v9.9.9&cars=2", 390)
    page.wait(says("trouble-code", "MODEL_NOT_FOUND"))
    page.wait(says("trouble-message", "v9.9.9"))
    page.wait(says("trouble-more", "then brake"))
    page.wait(says("state", "Trouble"))
    assert page.evaluate("document.getElementById('trouble').checkVisibility()")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert number(page, "errors") > 0
    assert number(page, "fallback") > 0
    assert text(page, "car-speed") == "0"
    change(page, "version", "")
    page.wait(says("state", "Answered again"))
    assert not page.evaluate("document.getElementById('trouble').checkVisibility()")
    page.wait("Number(document.getElementById('car-speed').textContent) > 5")


@pytest.mark.reliability
def test_a_key_is_asked_for_and_a_fallen_gateway_is_survived(page: Browser, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(hashlib.sha256(KEY.encode()).hexdigest())
    use = "document.querySelector('#key-form button').click()"
    with running_stack(API_KEYS_FILE=str(keys)) as stack:
        page.open(stack.gateway_url + "/console", 1200)
        page.wait(says("trouble-code", "UNAUTHORIZED"))
        page.wait("document.activeElement.id === 'key'")
        change(page, "key", "no header can hold ✗")
        page.evaluate(use)
        assert page.evaluate("document.querySelector('#key:invalid').value.length") > 1
        change(page, "key", "wrong")
        page.evaluate(use)
        page.wait(says("trouble-more", "2 times"))
        page.wait(says("state", "API key"))
        change(page, "key", KEY)
        page.evaluate(use)
        page.wait(f"{says('state', 'Driving')} && document.getElementById('trouble').hidden")
        page.wait(says("car-version", "v0.2.0"))
        assert not any(KEY in url for url in page.asked())
        assert page.evaluate("localStorage.length + sessionStorage.length + document.cookie") == "0"

        answers = number(page, "answers")
        (gateway,) = (
            child
            for child in psutil.Process(stack.process.pid).children()
            if "gateway" in " ".join(child.cmdline())
        )
        os.kill(gateway.pid, signal.SIGSTOP)
        page.wait(says("state", "No answers: cars brake"))
        os.kill(gateway.pid, signal.SIGKILL)
        page.wait(says("trouble-code", "NO_CONNECTION"))
        page.wait(says("state", "fallback"))
        page.wait(says("state", "Answered again"))
        assert number(page, "answers") > answers
        assert number(page, "fallback") > 4


def test_the_keyboard_is_enough(page: Browser, stack: Stack) -> None:
    page.open(stack.gateway_url + "/console?cars=3", 1200)
    page.wait(says("state", "Driving"))
    press(page, " ", 32, " ")
    page.wait(says("state", "Paused"))
    assert text(page, "pause") == "Drive"
    answers = number(page, "answers")
    press(page, "ArrowRight", 39)
    assert text(page, "car-title") == "Car 2"
    press(page, "ArrowLeft", 37)
    press(page, "ArrowLeft", 37)
    assert text(page, "car-title") == "Car 3"
    reached = []
    for _ in range(40):
        press(page, "Tab", 9)
        active = "document.activeElement"
        reached.append(page.evaluate(f"{active}.id || {active}.name || {active}.className"))
        ring = page.evaluate(
            f"{active} === document.body || [{active}, {active}.closest('.choice')]"
            ".some(e => e && getComputedStyle(e).outlineStyle !== 'none')"
        )
        assert ring, f"{reached[-1]} does not show that it has the focus"
    order = ["pause", "restart", "cars", "speed", "kind", "version", "scroll"]
    order += ["previous", "next", "take", "try-speed", "try-sensor-5", "try-deterministic"]
    assert [name for name in dict.fromkeys(reached) if name in order] == order
    assert number(page, "answers") - answers <= 3  # what was under way
    page.evaluate("document.activeElement.blur()")
    press(page, " ", 32, " ")
    page.wait(says("state", "Driving"))


CONTRASTS = """(() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
  };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.matches(":disabled, option")) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.textContent]);
  }
  return found;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_it_can_be_read(page: Browser, stack: Stack, width: int, scheme: str) -> None:
    page.open(stack.gateway_url + "/console?cars=20&version=v9.9.9", width, scheme)
    page.wait(says("trouble-code", "MODEL_NOT_FOUND"))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 100
    assert [one for one in contrasts if one[0] < 4.5] == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper)[:3])) > 384) == (scheme == "light")


def test_less_motion_where_it_is_asked_for(page: Browser, stack: Stack) -> None:
    page.open(stack.gateway_url + "/console", 1200, motion="reduce")
    page.wait(says("state", "Paused"))
    page.evaluate("document.getElementById('pause').click()")
    page.wait(says("state", "Driving"))


@pytest.mark.reliability
def test_a_policy_of_another_form_has_a_text(page: Browser, tmp_path: Path) -> None:
    """No track and no cars, until a policy is active that drives them; and back again."""
    observation = {"type": "Dict", "subspaces": {"mode": {"type": "Discrete", "n": 4}}}
    action = {"type": "MultiDiscrete", "nvec": [3, 2]}
    make(tmp_path / "v1.0.0", {"observation_space": observation, "action_space": action})
    target = tmp_path / "model_repository"
    export([ROOT / "artifacts/v0.2.0", tmp_path / "v1.0.0"], target, ["onnx"])
    promote.promote(target, "v1.0.0", None, allow_signature_change=True)
    send = "document.querySelector('#try-text button').click()"
    visible = "document.getElementById('{}').checkVisibility()"
    with running_stack(MODEL_REPOSITORY=str(target)) as stack:
        page.open(stack.gateway_url + "/console", 1200)
        page.wait(says("state", "Ready"))
        page.wait("/^\\[\\d,\\d\\]$/.test(document.getElementById('try-own').textContent)")
        for hidden in ("track", "car-action", "latency", "cars", "take", "try-action"):
            assert not page.evaluate(visible.format(hidden)), hidden
        assert page.evaluate("JSON.parse(document.getElementById('try-json').value).mode < 4")
        for sent, told in (('{"mode": 4}', "observations.0.mode"), ('{"mode": ', "No JSON")):
            change(page, "try-json", sent)
            page.evaluate(send)
            page.wait(says("try-error", told))
        change(page, "try-json", '{"mode": 3}')
        page.evaluate(send)
        page.wait(says("try-note", "v1.0.0, deterministic"))
        assert text(page, "try-error") == ""
        assert "trouble" not in text(page, "state").lower()
        with TritonControl(f"http://{stack.triton_http}") as control:
            promote.promote(target, "v0.2.0", control, allow_signature_change=True)
            until(lambda: httpx.get(f"{stack.gateway_url}/readyz").json()["version"] == "v0.2.0")
            page.evaluate("document.querySelector('#try-deterministic').click()")
            page.wait(says("state", "Driving"))
            assert page.evaluate(visible.format("track"))
            assert not page.evaluate(visible.format("try-text"))
            promote.promote(target, "v1.0.0", control, allow_signature_change=True)
            page.wait(says("state", "Ready"))
            assert not page.evaluate(visible.format("track"))
