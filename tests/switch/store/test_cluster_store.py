"""The store on a cluster: databases that are not ours to use, names taken over, the copy that follows, transactions
in doubt."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from ovspane.store.cluster import ClusterStore
from ovspane.store.guards import Guard, InDoubt, LostRace
from ovspane.store.records import Record, StoreError, TakenOver, table_of
from ovspane.store.replica import Replica, patched
from tests.support.cluster import SCHEMA, free_port, run
from tests.support.gate import Gate
from tests.support.patience import PATIENCE, until, wait_for

FREE = Guard({}, frozenset(), frozenset(), ())


def share(name: str, **columns: Any) -> Record:
    return Record("Share", name, {"parent": "rootShare", **columns})


@contextlib.contextmanager
def single_server(schema: Path = SCHEMA) -> Iterator[str]:
    """A server that is no cluster, over tcp: its remote."""
    with tempfile.TemporaryDirectory(prefix="ovspane.", dir="/tmp") as folder:
        port = free_port()
        run("ovsdb-tool", "create", f"{folder}/db", str(schema))
        server = subprocess.Popen(
            ["ovsdb-server", f"{folder}/db", f"--remote=ptcp:{port}:127.0.0.1", f"--unixctl={folder}/ctl", "--no-chdir",
             "-vconsole:off", "-vsyslog:off"], env={"OVS_RUNDIR": folder, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )  # fmt: skip
        try:
            wait_for(lambda: Path(f"{folder}/ctl").exists(), "server")
            yield f"tcp:127.0.0.1:{port}"
        finally:
            server.kill()
            server.wait()


@contextlib.asynccontextmanager
async def running(remote: str, name: str = "me", seconds: float = PATIENCE) -> AsyncIterator[ClusterStore]:
    store = ClusterStore(remote, name)
    task = asyncio.create_task(store.run())
    try:
        await store.until_synced(seconds)
        yield store
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def with_version(folder: Path, version: str) -> Path:
    schema = json.loads(SCHEMA.read_text())
    schema["version"] = version
    file = folder / "schema"
    file.write_text(json.dumps(schema))
    return file


@pytest.mark.parametrize(("version", "words"), [("9.0.0", "newer ovspane"), ("1.0.0", "ovspane cluster upgrade")])
def test_a_database_of_another_schema_is_an_error_at_once(tmp_path: Path, version: str, words: str) -> None:
    async def main(remote: str) -> None:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(StoreError, match=words):
                async with running(remote):
                    pass

    with single_server(with_version(tmp_path, version)) as remote:
        asyncio.run(main(remote))


def test_no_server_is_an_error_with_the_remotes() -> None:
    async def main() -> None:
        with pytest.raises(StoreError, match=r"no leader among tcp:127\.0\.0\.1:1 "):
            async with running("tcp:127.0.0.1:1", seconds=1.0):
                pass

    asyncio.run(main())


def test_a_second_daemon_of_the_same_name_takes_over() -> None:
    async def main(remote: str) -> None:
        async with running(remote) as first:
            await first.commit([share("a")], [], FREE)
            async with running(remote) as second:
                with pytest.raises(TakenOver):
                    await first.commit([share("b")], [], FREE)
                await second.commit([share("d")], [], FREE)
                assert {key[1] for key in second.replica.records if key[0] == "Share"} == {"a", "d"}

    with single_server() as remote:
        asyncio.run(main(remote))


def test_a_guard_that_is_not_current_changes_nothing() -> None:
    async def main(remote: str) -> None:
        async with running(remote, "one") as one, running(remote, "two") as two:
            bump = frozenset({"room:x"})
            await one.commit([], [], Guard({"room:x": None}, bump, frozenset(), ()))
            seen = one.replica.uuids["Version", "room:x"], 1
            async with asyncio.timeout(PATIENCE):
                while ("Version", "room:x") not in two.replica.records:
                    await two.wait_for_update(two.replica.updates)
            await two.commit([share("a")], [], Guard({"room:x": seen}, bump, frozenset(), ()))
            for guard in (
                Guard({"room:x": seen}, frozenset(), frozenset(), ()),
                Guard({"room:x": None}, frozenset(), frozenset(), ()),
                Guard({}, frozenset(), frozenset(), (("Request", "7"),)),
            ):
                with pytest.raises(LostRace):
                    await one.commit([share("b")], [], guard)
            # The change that won was there before the answer.
            assert one.replica.records["Version", "room:x"].columns["number"] == 2
            assert ("Share", "a") in one.replica.records
            await one.commit([Record("Slot", "4", {"request": 9})], [], FREE)
            async with asyncio.timeout(PATIENCE):
                while ("Slot", "4") not in two.replica.records:
                    await two.wait_for_update(two.replica.updates)
            assert ("Share", "b") not in two.replica.records
            # An index refuses what another one inserted first.
            await one.commit([Record("Slot", "5", {"request": 1})], [], FREE)
            two.replica.uuids.pop(("Slot", "5"), None)
            with pytest.raises(LostRace):
                await two.commit([Record("Slot", "5", {"request": 2})], [], FREE)

    with single_server() as remote:
        asyncio.run(main(remote))


@pytest.mark.parametrize("done", [True, False])
def test_what_is_in_doubt_is_found_out(done: bool) -> None:
    """The answer, or the transaction itself, is lost with the connection."""

    async def main(remote: str) -> None:
        gate = Gate(remote)
        async with running(await gate.start()) as store:
            await store.commit([share("a")], [], FREE)
            gate.swallow, gate.hold = True, not done
            commit = asyncio.create_task(store.commit([share("b")], [], FREE))
            await until(gate.lost_transaction, "loss of the transaction, or of its answer")
            gate.cut()
            with pytest.raises(InDoubt) as doubt:
                await commit
            await store.until_synced(PATIENCE)
            assert store.was_committed(doubt.value.sequence) is done
            assert (("Share", "b") in store.replica.records) is done
            await store.commit([share("c")], [], FREE)
            assert store.was_committed(doubt.value.sequence) is done

    with single_server() as remote:
        asyncio.run(main(remote))


def test_differences_of_sets_and_maps() -> None:
    columns = {column.name: column for column in table_of("Share").columns}
    assert patched(columns["granted"], ["set", ["a", "b"]], ["set", ["a", "c"]]) == ["set", ["b", "c"]]
    assert patched(columns["granted"], "a", "a") == ["set", []]
    assert patched(
        columns["privileges"], ["map", [["x", "1"], ["y", "2"]]], ["map", [["x", "3"], ["y", "2"], ["z", "4"]]]
    ) == [
        "map",
        [["x", "3"], ["z", "4"]],
    ]
    assert patched(columns["created"], 1, 7) == 7


def test_a_copy_that_begins_anew_forgets_what_is_gone() -> None:
    copy = Replica()
    copy.apply_answer(False, "t1", {"Share": {"u1": {"initial": {"name": "a"}}, "u2": {"initial": {"name": "b"}}}})
    copy.clear_changed()
    copy.apply_answer(False, "t2", {"Share": {"u2": {"initial": {"name": "b"}}, "u3": {"initial": {"name": "c"}}}})
    assert list(copy.changed) == [("Share", "a"), ("Share", "c")]
    assert set(copy.records) == {("Share", "b"), ("Share", "c")}
    copy.update("t3", {"Share": {"u3": {"delete": None}, "u4": {"insert": {"name": "c", "created": 2}}}})
    assert copy.records["Share", "c"].columns["created"] == 2
    assert copy.uuids["Share", "c"] == "u4"
