"""Both clients behind one face, so that one test asks both."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from carlarl_client import AsyncPolicyClient, PolicyClient, PolicyError

SEEN = {"speed": 25.5, "steering": 0.1, "sensors": [0.8, 0.2, 0.5, 0.9, 0.1]}


class Plain:
    """A client for each call, closed after it."""

    def __init__(self, url: str, **options: Any) -> None:
        self.url = url
        self.options = {"timeout": 20.0, **options}

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            with PolicyClient(self.url, **self.options) as client:
                return getattr(client, name)(*arguments, **options)

        return call

    def predict_all(self, several: list[Any], **options: Any) -> list[Any]:
        """Ask for one after the other with one client; give answers or errors, and seconds."""
        outcomes: list[Any] = []
        with PolicyClient(self.url, **self.options) as client:
            for one in several:
                started = time.perf_counter()
                try:
                    outcome: Any = client.predict(one, **options)
                except PolicyError as error:
                    outcome = error
                outcomes.append((outcome, time.perf_counter() - started))
        return outcomes


class Twin(Plain):
    """The same with the asyncio twin."""

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **options: Any) -> Any:
            async with AsyncPolicyClient(self.url, **self.options) as client:
                return await getattr(client, name)(*arguments, **options)

        return lambda *arguments, **options: asyncio.run(call(*arguments, **options))

    def predict_all(self, several: list[Any], **options: Any) -> list[Any]:
        async def ask() -> list[Any]:
            outcomes: list[Any] = []
            async with AsyncPolicyClient(self.url, **self.options) as client:
                for one in several:
                    started = time.perf_counter()
                    try:
                        outcome: Any = await client.predict(one, **options)
                    except PolicyError as error:
                        outcome = error
                    outcomes.append((outcome, time.perf_counter() - started))
            return outcomes

        return asyncio.run(ask())


KINDS = pytest.mark.parametrize("kind", [Plain, Twin])
