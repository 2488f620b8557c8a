"""While a long statement is worked on, the event loop goes on: it does the work of others, in turns with a thread."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ovspane.lang.parser import parse
from ovspane.lang.replies import Code, Reply
from tests.serving import FileKeeper, running, serving

COUNT = 6_000


async def ticks_during(work: asyncio.Future[Reply]) -> int:
    """How often the loop came round until the work was done."""
    ticks = 0
    while not work.done():
        await asyncio.sleep(0.001)
        ticks += 1
    return ticks


def test_the_loop_goes_on_beside_long_statements(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(FileKeeper(tmp_path / "kept")) as service:
            for text in ("NewShare a for (*) [] on rootShare.", "NewShare b for (*) [] on a."):
                assert (await service.ask("root", parse(text))).code is Code.OK
            asked = [
                service.submit("root", parse(f"allow(srcHost=10.{i >> 8}.{i & 255}.1, dstPort=80) on b.")) for i in range(COUNT)
            ]
            assert all(reply.code is Code.OK for reply in await asyncio.gather(*asked))
            for text in ("deny(*) partial on a.", "ListRequests.", "DropShare a."):
                work = service.submit("root", parse(text), Reply.to_json)
                assert await ticks_during(work) > 3, text
                assert work.result().code is Code.OK, text
            assert not service.state.requests

    asyncio.run(main())


def test_a_long_answer_is_the_same_as_a_short_one(tmp_path: Path) -> None:
    """The answer to a question with many lines is rendered in a thread, in the format that was in force when it was asked."""

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
