"""The service when the store fails: changes are refused, nothing of them stays, questions are answered, and it comes
back."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from ovspane.lang.parser import parse
from ovspane.lang.replies import Code
from ovspane.policy.model.table import TableDelta
from ovspane.policy.state.state import Change
from ovspane.server.private_commit import PrivateCommit
from ovspane.server.service import FEW, Service
from tests.support.patience import PATIENCE
from tests.support.serving import Client, FileKeeper, Served, running, serving


async def back(there: Served) -> None:
    async with asyncio.timeout(PATIENCE):
        while there.service.store_down:
            await asyncio.sleep(0.01)


async def several(client: Client, text: str, count: int) -> list[str]:
    client.send(text + "\n")
    return [await client.line() for _ in range(count)]


def test_a_failing_store_refuses_changes_and_only_changes(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as there:
            client, other = await there.client(), await there.client()
            assert await client.ask("NewShare a for (*) [reserve <= 10Mb] on rootShare.") == "OK"
            assert await client.ask("reserve(dstPort=80) = 4Mb on a to +1h.") == "OK id=1"
            before = list(there.service.committed.values())
            size = there.keeper.path.stat().st_size

            there.keeper.fail()
            # One batch: what only asks is answered as if the rest had not been said, what changes something is refused.
            text = "ListRequests. reserve(dstPort=81) = 4Mb on a. Cancel 1. ListRequests. NewShare b for (*) [] on a."
            text += " Check reserve(dstPort=81) = 4Mb on a. Grant b to Bob. Whoami."
            answers = await several(client, text, 10)
            assert answers[0] == answers[4] == "OK n=1"
            assert answers[1] == answers[5]
            assert answers[1].startswith("1 active reserve(dstPort=80)")
            for answer in (answers[2], answers[3], answers[6]):
                assert answer.startswith("NO not stored, nothing changed"), answer
            assert answers[7] == "OK"
            assert answers[8] == "NO there is no share b"
            assert answers[9] == "OK principal=root"
            assert (await several(other, "AddUser x. ListShares.", 4))[1:2] == ["OK n=2"]
            assert there.service.store_down
            assert list(there.service.committed.values()) == before
            assert list(there.service.state.values()) == before
            assert there.keeper.path.stat().st_size == size

            there.keeper.mend()
            await back(there)
            assert list(there.service.committed.values()) == before
            assert await other.ask("reserve(dstPort=81) = 4Mb on a.") == "OK id=2"

    asyncio.run(main())


def test_the_log_says_once_that_the_store_is_away(tmp_path: Path, caplog: object) -> None:
    async def main() -> None:
        async with serving(tmp_path) as there:
            client = await there.client()
            there.keeper.fail()
            for _ in range(200):
                assert (await client.ask("AddUser Alice.")).startswith("NO not stored")
            there.keeper.mend()
            await back(there)
            assert await client.ask("AddUser Alice.") == "OK"

    asyncio.run(main())
    assert sum("store failed" in record.message for record in caplog.records) == 1  # type: ignore[attr-defined]


def test_requests_end_in_time_while_the_store_is_away(tmp_path: Path) -> None:
    deltas: list[TableDelta] = []
    now = [time.time_ns() // 1_000_000]

    async def main() -> None:
        keeper = FileKeeper(tmp_path / "kept")
        service = Service(PrivateCommit(keeper), clock=lambda: now[0], on_delta=deltas.append)
        await service.load()
        task = asyncio.create_task(service.run())
        for text in ("NewShare a for (*) [] on rootShare.", "deny(dstPort=22) on a to +10s."):
            assert (await service.ask("root", parse(text))).code is Code.OK
        assert len(deltas) == 1
        assert deltas[0].added
        keeper.fail()
        assert (await service.ask("root", parse("AddUser x."))).reason_code == "store"
        now[0] += 11_000
        reply = await service.ask("root", parse("ListRequests."))
        assert reply.lines == ()
        assert len(deltas) == 2
        assert deltas[1].removed
        keeper.mend()
        async with asyncio.timeout(PATIENCE):
            while service.store_down:
                await asyncio.sleep(0.01)
        assert not service.committed.requests
        task.cancel()
        # And what is kept now says so, too.
        assert not [value for value in await keeper.load() if type(value).__name__ == "Request"]

    asyncio.run(main())


def test_a_commit_whose_answer_was_lost_is_found_by_loading(tmp_path: Path) -> None:
    """The store kept the change and then failed: the answer is NO, but the state goes with the store when it is
    back."""

    class Ambiguous(FileKeeper):
        async def keep(self, changes: Sequence[Change]) -> None:
            await super().keep(changes)
            if getattr(self, "lose", False):
                self.lose = False
                self.fail()
                await super().keep(changes)

    async def main() -> None:
        keeper = Ambiguous(tmp_path / "kept")
        async with running(keeper) as service:
            keeper.lose = True
            assert (await service.ask("root", parse("AddUser Alice."))).reason_code == "store"
            assert "Alice" not in service.committed.principals
            keeper.mend()
            async with asyncio.timeout(PATIENCE):
                while service.store_down:
                    await asyncio.sleep(0.01)
            assert "Alice" in service.committed.principals
            assert (await service.ask("root", parse("AddUser Alice."))).reason_code == "name-taken"

    asyncio.run(main())


def test_a_burst_costs_few_commits_and_a_reply_comes_after_its_commit(tmp_path: Path) -> None:
    async def main() -> None:
        keeper = FileKeeper(tmp_path / "kept")
        async with running(keeper) as service:
            asked = [service.submit("root", parse(f"AddUser u{i}.")) for i in range(1000)]
            seen = 0
            while not asked[-1].done():
                await asyncio.sleep(0)
                done = sum(reply.done() for reply in asked)
                if done != seen:
                    seen = done
                    kept = {value.name for value in await keeper.load() if type(value).__name__ == "Principal"}
                    assert len(kept) >= done
            assert keeper.batches <= 1 + 1000 // FEW  # more in each where the machine is quick
            assert all(reply.result().code is Code.OK for reply in asked)

    asyncio.run(main())


def test_a_defect_in_another_room_does_not_end_the_service(tmp_path: Path) -> None:
    def defect(delta: TableDelta) -> None:
        raise RuntimeError("a defect, for the test")

    async def main() -> None:
        service = Service(PrivateCommit(FileKeeper(tmp_path / "kept")), clock=lambda: 1_000_000, on_delta=defect)
        await service.load()
        task = asyncio.create_task(service.run())
        for text in ("NewShare a for (*) [] on rootShare.", "deny(dstPort=22) on a."):
            assert (await service.ask("root", parse(text))).code is Code.OK
        async with asyncio.timeout(PATIENCE):
            while service.store_down or not service.committed.requests:
                await asyncio.sleep(0.01)
            assert (await service.ask("root", parse("ListRequests."))).lines
        assert not task.done()
        task.cancel()

    asyncio.run(main())
