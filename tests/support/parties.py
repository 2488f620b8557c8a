"""Daemons' services on one cluster, all in the test's process."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import TypeVar

from ovspane.lang.parser import parse
from ovspane.lang.replies import Code, Reply
from ovspane.server.service import Service
from ovspane.server.shared_commit import SharedCommit
from ovspane.store.cluster import ClusterStore
from ovspane.store.shared_keeper import SharedKeeper
from tests.support.patience import PATIENCE


def clock() -> int:
    return time.time_ns() // 1_000_000


class Running:
    """A part of a daemon, whose tasks are the test's until `stop`."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> object:
        raise NotImplementedError

    async def stop(self) -> None:
        for task in reversed(self.tasks):
            task.cancel()
        for outcome in await asyncio.gather(*self.tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome
        self.tasks = []


R = TypeVar("R", bound=Running)


@contextlib.asynccontextmanager
async def running(made: list[R]) -> AsyncIterator[list[R]]:
    """All of them at work, started one after the other."""
    try:
        for one in made:
            await one.start()
        yield made
    finally:
        for one in made:
            await one.stop()


class Party(Running):
    """One daemon's service."""

    def __init__(self, where: str, name: str) -> None:
        super().__init__()
        self.store = ClusterStore(where, name)
        self.keeper = SharedKeeper(self.store)
        self.commits = SharedCommit(self.keeper)
        self.service = Service(self.commits, clock=clock)

    async def start(self) -> None:
        self.tasks.append(asyncio.create_task(self.store.run()))
        await self.store.until_synced(20)
        await self.service.load()
        self.tasks.append(asyncio.create_task(self.service.run()))

    async def say(self, text: str, speaker: str = "root") -> Reply:
        async with asyncio.timeout(PATIENCE):
            return await self.service.ask(speaker, parse(text))

    async def do(self, text: str) -> Reply:
        reply = await self.say(text)
        assert reply.code is Code.OK, f"{text} -> {reply}"
        return reply


def parties(where: str, count: int = 3, names: str = "d") -> contextlib.AbstractAsyncContextManager[list[Party]]:
    return running([Party(where, f"{names}{number}") for number in range(count)])


async def agree(made: list[Party], seconds: float = PATIENCE) -> None:
    """Wait until all have the same requests, shares and principals."""

    def view(one: Party) -> object:
        state = one.service.state
        return dict(state.requests), dict(state.shares), dict(state.principals), set(state.hints)

    async with asyncio.timeout(seconds):
        while any(view(one) != view(made[0]) for one in made[1:]):
            await asyncio.sleep(0.02)
