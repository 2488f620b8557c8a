"""A database file that lost something is recognised before ovsdb-server may cut it, and there is a way out that says
what it costs. On real database files, and a real ovsdb-server where the matter is what that does."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ovspane.cli.main import main
from ovspane.store import OvsdbStore, PrivateServer, Record
from ovspane.store.acknowledged import NAME, Acknowledged, Level
from ovspane.store.damage import COPY_FILE, DATABASE_FILE, Damaged, keep_copy
from ovspane.store.log_file import check_log, read_log
from tests.support.patience import PATIENCE, until

ROWS = 20


@contextlib.asynccontextmanager
async def private(folder: Path) -> AsyncIterator[tuple[PrivateServer, OvsdbStore]]:
    server = PrivateServer(folder)
    await server.start()
    store = OvsdbStore(server.remote, limit=PATIENCE, acknowledged=server.acknowledged.note)
    try:
        yield server, store
    finally:
        await store.close()
        await server.stop()


def row(number: int) -> Record:
    return Record("Setting", f"key-{number}", {"value": "x" * 50})


async def write(folder: Path, numbers: range) -> None:
    async with private(folder) as (_, store):
        await store.load()
        for number in numbers:
            await store.commit([row(number), Record("Setting", "next-id", {"value": str(number + 1)})])


async def stored(folder: Path) -> set[str]:
    async with private(folder) as (_, store):
        return {record.key for record in await store.load() if record.key.startswith("key-")}


KEYS = {f"key-{number}" for number in range(ROWS)}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "state"
    asyncio.run(write(folder, range(ROWS)))
    return folder


@pytest.fixture
def state(written: Path, tmp_path: Path) -> Path:
    """A state directory with ROWS transactions, and the copy that was made at the last start, of an empty database."""
    return shutil.copytree(written, tmp_path / "state", ignore=shutil.ignore_patterns("*.sock", "*.ctl"))


def middle(data: bytes) -> int:
    """Where in the file a row of the middle is."""
    return data.index(f"key-{ROWS // 2}".encode())


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def at_record(data: bytes, number: int) -> int:
    """Where the record with this row begins."""
    return data.rindex(b"OVSDB JSON", 0, data.index(f"key-{number}".encode()))


DAMAGES = {
    "one bit of a row": lambda data: flipped(data, middle(data)),
    "one bit of a header": lambda data: flipped(data, at_record(data, ROWS // 2) + 2),
    "one bit of the schema": lambda data: flipped(data, 300),
    "one bit of the last row": lambda data: flipped(data, len(data) - 20),
    "cut in half": lambda data: data[: len(data) // 2],
    "cut at the end of a record": lambda data: data[: at_record(data, ROWS // 2)],
    "the last byte is missing": lambda data: data[:-1],
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "zeros at its end, as a crash leaves them": lambda data: data[: at_record(data, ROWS - 2)] + bytes(4096),
    "a record in the middle is missing": lambda data: data[: at_record(data, 5)] + data[at_record(data, 6) :],
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused_and_nothing_is_touched(state: Path, name: str) -> None:
    database = state / DATABASE_FILE
    database.write_bytes(damaged := DAMAGES[name](database.read_bytes()))
    with pytest.raises(Damaged, match=r"ovspane\.db is damaged: .*`ovspane restore`"):
        asyncio.run(stored(state))
    assert database.read_bytes() == damaged
    assert (state / COPY_FILE).exists(), "the copy of the last start is still there"


def test_ovsdb_server_alone_would_have_lost_it(state: Path) -> None:
    """Why we look first: without the check it serves a part, and cuts the rest off. (If this fails a newer one is
    better, and the check is there all the same.)"""
    database = state / DATABASE_FILE
    database.write_bytes(DAMAGES["one bit of a row"](database.read_bytes()))
    (state / NAME).unlink()

    async def play() -> set[str]:
        server = PrivateServer(state)
        server._check = lambda: asyncio.sleep(0)  # type: ignore[method-assign, assignment]
        await server.start()
        store = OvsdbStore(server.remote, limit=PATIENCE)
        try:
            found = {record.key for record in await store.load() if record.key.startswith("key-")}
            await store.commit([row(99)])
            return found
        finally:
            await store.close()
            await server.stop()

    assert asyncio.run(play()) == {f"key-{number}" for number in range(ROWS // 2)}
    assert f"key-{ROWS - 1}".encode() not in database.read_bytes()


def test_a_database_that_is_gone_is_refused(state: Path) -> None:
    (state / DATABASE_FILE).unlink()
    with pytest.raises(Damaged, match="is not there, though"):
        asyncio.run(stored(state))
    assert not (state / DATABASE_FILE).exists()


def test_a_database_that_is_gone_with_its_note_is_missed_where_its_copy_is_left(state: Path) -> None:
    keep_copy(state)
    (state / DATABASE_FILE).unlink()
    (state / NAME).unlink()
    with pytest.raises(Damaged, match=f"though its copy has {ROWS} transactions"):
        asyncio.run(stored(state))
    assert restore(state) == 1
    assert restore(state, "--accept-loss") == 0
    assert asyncio.run(stored(state)) == KEYS


def test_an_interrupted_write_at_the_end_is_no_damage(state: Path) -> None:
    """What was never acknowledged may be there in part."""
    database = state / DATABASE_FILE
    data = database.read_bytes()
    database.write_bytes(data + data[at_record(data, 3) :][:70])
    assert asyncio.run(stored(state)) == KEYS


def test_what_was_not_acknowledged_may_be_there_too(state: Path) -> None:
    """The daemon was killed after the commit and before the answer."""
    acknowledged = Acknowledged(state)
    assert acknowledged.level is not None
    acknowledged.write(Level(acknowledged.level.transaction - 3, 1))
    assert asyncio.run(stored(state)) == KEYS


def test_a_database_of_before_and_a_note_that_is_not_whole_say_nothing(state: Path) -> None:
    """An upgrade: no note yet, and no number in the database."""
    (state / NAME).write_bytes(b"17 18 0 nonsense")
    assert asyncio.run(stored(state)) == KEYS
    (state / NAME).unlink()
    assert asyncio.run(stored(state)) == KEYS


def restore(state: Path, *more: str) -> int:
    return main(["restore", "--state-dir", str(state), *more])


def test_restore_from_a_copy_that_has_everything(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep_copy(state)
    database = state / DATABASE_FILE
    database.write_bytes(damaged := DAMAGES["one bit of a row"](database.read_bytes()))
    assert restore(state) == 0
    told = capsys.readouterr().out
    assert "transactions that were acknowledged can be had" in told
    assert [kept.read_bytes() for kept in state.glob(f"{DATABASE_FILE}.damaged-*")] == [damaged]
    assert asyncio.run(stored(state)) == KEYS
    assert restore(state) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_restore_that_loses_something_asks_first(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The copy is older than the sound part of the file."""
    database = state / DATABASE_FILE
    database.write_bytes(damaged := DAMAGES["one bit of a row"](database.read_bytes()))
    assert restore(state) == 1
    told = capsys.readouterr()
    assert f"the last {ROWS // 2} are gone for good" in told.out
    assert "--accept-loss" in told.err
    assert database.read_bytes() == damaged
    assert restore(state, "--accept-loss") == 0
    assert asyncio.run(stored(state)) == {f"key-{number}" for number in range(ROWS // 2)}
    level = Acknowledged(state).level
    assert level is not None
    assert level.next_id == ROWS, "ids that were given are not given again"


def test_restore_where_nothing_is_left(state: Path) -> None:
    (state / DATABASE_FILE).write_bytes(b"")
    (state / COPY_FILE).unlink()
    assert restore(state) == 1
    assert restore(state, "--accept-loss") == 0
    assert asyncio.run(stored(state)) == set()
    level = Acknowledged(state).level
    assert level is not None
    assert level.next_id == ROWS


def test_restore_from_a_backup(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An older database that is put back by hand is refused like any other that lost something; by command it is a
    choice."""
    backup = tmp_path / "backup"
    shutil.copy(state / DATABASE_FILE, backup)
    asyncio.run(write(state, range(60, 62)))
    shutil.copy(backup, state / DATABASE_FILE)
    with pytest.raises(Damaged, match="were acknowledged"):
        asyncio.run(stored(state))
    assert restore(state, "--from", str(backup)) == 1
    assert "the last 2 are gone for good" in capsys.readouterr().out
    assert restore(state, "--from", str(backup), "--accept-loss") == 0
    assert asyncio.run(stored(state)) == KEYS
    backup.write_bytes(backup.read_bytes()[:-3])
    assert restore(state, "--from", str(backup), "--accept-loss") == 1
    assert "is no whole database" in capsys.readouterr().err
    assert asyncio.run(stored(state)) == KEYS


def test_restore_leaves_a_running_daemon_alone(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def play() -> int:
        async with private(state):
            return await asyncio.to_thread(restore, state, "--accept-loss")

    assert asyncio.run(play()) == 1
    assert "in use by another ovspane daemon" in capsys.readouterr().err


def test_numbers_stay_over_compactions_restarts_and_lost_answers(tmp_path: Path) -> None:
    """The number of the last transaction in the file is never below what was acknowledged, and a copy has it."""

    async def play() -> None:
        async with private(tmp_path) as (server, store):
            await store.load()
            for number in range(12):
                if number % 4 == 1:
                    await server._compact()
                if number % 4 == 2:
                    assert server._process is not None
                    before = server.pid
                    server._process.kill()
                    await until(lambda before=before: server.pid not in (None, before), "another server")  # type: ignore[misc]
                await store.commit([row(number)])
                level = server.acknowledged.level
                assert level is not None
                found = read_log(tmp_path / DATABASE_FILE)
                assert found.problem == ""
                assert found.transaction == level.transaction >= number + 1
            assert keep_copy(tmp_path).transaction == level.transaction

    asyncio.run(play())


def test_damage_while_it_runs_is_mended_from_the_servers_memory(
    state: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ovspane.store.server.COPY_EVERY", 0.05)
    database = state / DATABASE_FILE

    async def play() -> None:
        async with private(state) as (_, store):
            await store.load()
            await store.commit([row(50)])
            await until(lambda: b"key-50" in (state / COPY_FILE).read_bytes(), "a copy")
            data = database.read_bytes()
            with database.open("r+b") as file:
                file.seek(middle(data))
                file.write(flipped(data, middle(data))[middle(data) :][:1])
            await store.commit([row(51)])  # the size changes, so it is looked at
            await until(lambda: check_log(database.read_bytes()).problem == "", "a sound database")

    asyncio.run(play())
    assert "is damaged" in caplog.text
    assert asyncio.run(stored(state)) == {*KEYS, "key-50", "key-51"}
