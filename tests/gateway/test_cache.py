"""The cache never answers with anything but what Triton gave for exactly that input."""

from __future__ import annotations

import re
import struct
import tracemalloc
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gateway.inference.cache import ENTRY_BYTES, Cache
from gateway.observability.metrics import Metrics
from gateway.triton.batch import Rows
from tests.gateway.driving import rows_of
from tests.gateway.processes import gateway_process

ACTION = struct.pack("<3f", 0.5, 0.25, -0.125)


def observation(speed: float, steering: float, *sensors: float) -> dict[str, Any]:
    return {"speed": speed, "steering": steering, "sensors": sensors or (0.5,) * 5}


def rows(*speeds: float) -> Rows:
    return rows_of([observation(speed, 0.0) for speed in speeds])


def test_every_byte_and_the_version_count() -> None:
    cache = Cache(Metrics())
    sensors = (0.1, 0.2, 0.3, 0.4, 0.5)
    base = observation(1.0, 0.5, *sensors)
    others = [
        observation(1.0000001, 0.5, *sensors),
        observation(1.0, 0.50000006, *sensors),
        observation(1.0, 0.5, 0.1, 0.2, 0.3, 0.4, 0.50000006),
        observation(1.0, 0.5, 0.2, 0.1, 0.3, 0.4, 0.5),
        observation(1.0, -0.5, *sensors),
        observation(-0.0, 0, *sensors),
        observation(0.0, 0, *sensors),
    ]
    keys = cache.keys("sha256:a", rows_of([base, *others]))
    keys += cache.keys("sha256:b", rows_of([base]))
    assert len(set(keys)) == len(keys)
    assert cache.keys("sha256:a", rows(1, 2, 3))[1] == cache.keys("sha256:a", rows(2))[0]


def test_bounded_and_the_oldest_goes_first() -> None:
    entry = len(Cache(Metrics()).keys("d", rows(0))[0]) + len(ACTION) + ENTRY_BYTES
    cache = Cache(Metrics())
    keys = cache.keys("d", rows(0, 1, 2, 3))
    for key in keys[:3]:
        cache.store(key, ACTION, 3 * entry)
    assert cache.look_up(keys[:1]) == [ACTION]  # now the second is the oldest
    cache.store(keys[3], ACTION, 3 * entry)
    assert cache.look_up(keys) == [ACTION, None, ACTION, ACTION]
    assert cache.bytes <= 3 * entry
    cache.shrink(2 * entry)
    assert cache.look_up(keys) == [None, None, ACTION, ACTION]
    cache.store(keys[0], ACTION, 9 * entry)
    assert cache.look_up(keys) == [ACTION, None, ACTION, ACTION]


def test_it_takes_no_more_memory_than_it_says() -> None:
    limit = 2_000_000
    digest = "sha256:" + "0" * 64
    tracemalloc.start()
    cache = Cache(Metrics())
    before = tracemalloc.get_traced_memory()[0]
    for index in range(12_000):
        cache.store(cache.keys(digest, rows(index / 100))[0], bytes(bytearray(ACTION)), limit)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert cache.bytes > 0.99 * limit
    assert taken < limit


@pytest.fixture(scope="module")
def cached(triton_http: str) -> Iterator[str]:
    with gateway_process(TRITON_URL=f"http://{triton_http}", CACHE_BYTES="1000000") as url:
        yield url


def lookups(url: str) -> dict[str, float]:
    text = httpx.get(f"{url}/metrics").text
    found = re.findall(r'carla_rl_cache_lookups_total\{result="(\w+)"\} (\S+)', text)
    return {name: float(value) for name, value in found}


def ask(url: str, speeds: list[float], **fields: object) -> dict[str, object]:
    observations = [{"speed": s, "steering": 0.0, "sensors": [0.5] * 5} for s in speeds]
    answer = httpx.post(f"{url}/predict", json={"observations": observations, **fields})
    assert answer.status_code == 200, answer.text
    content: dict[str, object] = answer.json()
    return content


def test_part_hit_part_call(cached: str, gateway_url: str) -> None:
    before = lookups(cached)
    first = ask(cached, [10, 20, 30], deterministic=True)
    mixed = ask(cached, [20, 40, 10, 50, 30], deterministic=True)
    after = lookups(cached)
    assert after["hit"] - before["hit"] == 3
    assert after["miss"] - before["miss"] == 5
    plain = ask(gateway_url, [20, 40, 10, 50, 30], deterministic=True)
    assert mixed["actions"] == plain["actions"]
    assert [mixed["actions"][i] for i in (2, 0, 4)] == first["actions"]  # type: ignore[index]


def test_versions_do_not_mix(cached: str, gateway_url: str) -> None:
    for version in ("v0.1.0", "v0.2.0", "v0.1.0", "v0.2.0"):
        here = ask(cached, [77], deterministic=True, version=version)
        there = ask(gateway_url, [77], deterministic=True, version=version)
        assert here["actions"] == there["actions"]
        assert here["version"] == version


def test_sampled_actions_are_never_cached(cached: str) -> None:
    before = lookups(cached)
    answers = {str(ask(cached, [60])["actions"]) for _ in range(8)}
    assert len(answers) > 1
    assert lookups(cached) == before
