"""While a long statement is worked on, the event loop goes on: it does the work of others, in turns with a thread."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from ovspane.lang.parser import parse
from ovspane.lang.replies import Code
from ovspane.policy.runtime import Runtime
from tests.support.serving import FileKeeper, running, serving

COUNT = 600
#: statements, and what of their work is long
LONG = {
    "deny(*) partial on a.": {"execute", "apply", "settle"},
    f"Cancel {COUNT + 1}.": {"apply", "settle"},
    "DropShare a.": {"execute", "settle"},
}


def test_long_work_is_done_beside_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is judged, applied and settled for a statement about very many requests is done in another thread than
    the loop's."""
    here: list[tuple[str, bool]] = []

    def spy(name: str) -> None:
        real = getattr(Runtime, name)

        def spied(*args: Any, **more: Any) -> Any:
            here.append((name, threading.current_thread() is threading.main_thread()))
            return real(*args, **more)

        monkeypatch.setattr(Runtime, name, spied)

    for name in ("execute", "apply", "settle"):
        spy(name)

    async def main() -> None:
        async with running(FileKeeper(tmp_path / "kept")) as service:
            for text in ("NewShare a for (*) [] on rootShare.", "NewShare b for (*) [] on a."):
                assert (await service.ask("root", parse(text))).code is Code.OK
            asked = [
                service.submit("root", parse(f"allow(srcHost=10.{i >> 8}.{i & 255}.1, dstPort=80) on b."))
                for i in range(COUNT)
            ]
            assert all(reply.code is Code.OK for reply in await asyncio.gather(*asked))
            assert all(on_loop for _, on_loop in here[-10:])
            for text, work in LONG.items():
                here.clear()
                assert (await service.ask("root", parse(text))).code is Code.OK, text
                await service.ask("root", parse("Whoami."))  # behind what was settled after the answer
                assert {name for name, on_loop in here if not on_loop} >= work, text
            assert not service.state.requests

    asyncio.run(main())


def test_a_long_answer_is_the_same_as_a_short_one(tmp_path: Path) -> None:
    """The answer to a question with many lines is rendered piece by piece, in the format that was in force when it was
    asked."""

    async def main() -> None:
        async with serving(tmp_path) as there:
            client = await there.client()
            for i in range(600):
                client.send(f"allow(dstPort={i + 1}) on rootShare.\n")
            for _ in range(600):
                assert (await client.line()).startswith("OK id=")
            client.send("ListRequests.\nFormat json.\nListRequests.\nFormat text.\nWhoami.\n")
            assert await client.line() == "OK n=600"
            lines = [await client.line() for _ in range(600)]
            assert lines[0].startswith("1 ")
            assert await client.line() == '{"reply": "OK"}'
            listed = await client.line()
            assert listed.startswith('{"reply": "OK", "items": [{"id": 1, ')
            assert listed.count('"kind": "allow"') == 600
            assert await client.line() == "OK"
            assert await client.line() == "OK principal=root"

    asyncio.run(main())
