"""A member whose disk was full for a while: found while it runs, and mended; and the way out once it cannot start. On
real clusters; a limit on the size of files stands for the full disk."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovspane.cli.main import main
from ovspane.store.member import Member, Serving
from ovspane.store.member_check import MemberWatch, addresses, log_problem, rejoin, space_problem
from ovspane.store.records import StoreError
from tests.support import cluster
from tests.support.cluster import free_port, remotes, run
from tests.support.patience import wait_for


class Damageable:
    """Two members, and a third one whose disk can be full."""

    def __init__(self, folder: Path) -> None:
        self.others = [cluster.Member(folder / f"m{n}", raft_port=free_port(), port=free_port()) for n in range(2)]
        cluster.form(self.others)
        self.member = Member(folder / "third")
        local = f"tcp:127.0.0.1:{free_port()}"
        self.member.join(local, [self.others[0].raft], Serving(f"tcp:127.0.0.1:{free_port()}"))
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["sh", "-c", 'trap "" XFSZ; exec "$@"', "sh", *self.member.command()],  # a write fails, and does not kill
            env={**os.environ, "OVS_RUNDIR": str(self.member.folder)},
            stderr=subprocess.DEVNULL,
        )
        wait_for(self.joined, "a third member")

    def joined(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "the member ended"
        return (self.member.folder / "ctl").exists() and "Status: cluster member" in self.member.status()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            (self.member.folder / "ctl").unlink(missing_ok=True)

    def write(self, numbers: range) -> None:
        for number in numbers:
            row = {"op": "insert", "table": "Setting", "row": {"name": f"key-{number}", "value": "x" * 100}}
            operations = json.dumps(["OVSPane", row, {"op": "commit", "durable": True}])
            run("ovsdb-client", "--timeout=60", "transact", remotes(self.others), operations)

    def limit(self, size: str) -> None:
        assert self.process is not None
        run("prlimit", f"--pid={self.process.pid}", f"--fsize={size}:unlimited")

    def make_a_hole(self) -> None:
        """The disk is full for three transactions."""
        self.write(range(5))
        self.limit(str(self.member.database.stat().st_size))
        self.write(range(5, 8))
        self.limit("unlimited")
        self.write(range(8, 12))
        wait_for(lambda: log_problem(self.member.database), "a hole")


@pytest.fixture
def three() -> Iterator[Damageable]:
    with tempfile.TemporaryDirectory(prefix="ovspane.", dir="/tmp") as folder:
        made = Damageable(Path(folder))
        try:
            yield made
        finally:
            made.stop()
            for other in made.others:
                other.kill()


def test_a_hole_is_found_while_it_runs_and_mended(three: Damageable, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    watch = MemberWatch(three.member, told.append)
    asyncio.run(watch.look())
    assert told == []
    three.make_a_hole()
    where = ["cluster", "--dir", str(three.member.folder)]
    assert main([*where, "status"]) == 1
    assert "Problem: ovsdb-tool check-cluster" in capsys.readouterr().out
    watch = MemberWatch(three.member, told.append)
    asyncio.run(watch.look())
    assert len(told) == 1 and "could not start again" in told[0]
    assert log_problem(three.member.database) == ""
    assert main([*where, "check"]) == 0
    three.stop()
    three.start()


def test_one_that_cannot_start_joins_again_by_one_command(
    three: Damageable, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["cluster", "--dir", str(three.member.folder)]
    assert main([*where, "rejoin"]) == 1, "it runs"
    assert "`ovspane cluster check` mends its log" in capsys.readouterr().err
    three.make_a_hole()
    before = {other.raft for other in three.others}
    assert before <= set(addresses(three.member.database))
    three.stop()
    dead = subprocess.run(
        three.member.command(), env={**os.environ, "OVS_RUNDIR": str(three.member.folder)}, timeout=60
    )
    assert dead.returncode, "ovsdb-server does not start with a hole: why all this is needed"
    assert main([*where, "rejoin"]) == 0
    assert "joined again, and the old member is removed" in capsys.readouterr().out
    three.start()
    status = cluster.status(three.others[0].folder)
    assert len([line for line in status.partition("Servers:")[2].splitlines() if "tcp:" in line]) == 3, status
    for other in three.others[1:]:
        other.kill()  # so that the one that joined again is needed for a majority
    three.write(range(20, 23))
    assert len(list(three.member.folder.glob("member.db.bad-*"))) == 1


def test_a_rejoin_that_fails_leaves_all_as_it_was(three: Damageable) -> None:
    three.make_a_hole()
    three.stop()
    data = three.member.database.read_bytes()
    nobody = f"tcp:127.0.0.1:{free_port()}"
    with pytest.raises(StoreError, match="has not joined"):
        rejoin(three.member, [nobody], 1.0)
    assert three.member.database.read_bytes() == data


def test_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = tmp_path / "member.db"
    database.write_bytes(bytes(1000))
    monkeypatch.setattr("ovspane.store.member_check.LEAST_FREE", 1000)
    assert space_problem(database) == ""
    monkeypatch.setattr("ovspane.store.member_check.LEAST_FREE", 1 << 60)
    assert "are needed" in space_problem(database)
