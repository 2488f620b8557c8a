"""A member of the cluster on this host: its database file, its ovsdb-server, and what is asked of it (as ovn-ctl does
for OVN).

A folder holds it all: member.db, member.json (how it serves), db.sock and ctl while it runs. Invariants: a file that is
there is never overwritten; a backup appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ovspane.policy.concurrency import bridge_of
from ovspane.store.records import DATABASE, StoreError, schema_text
from ovspane.store.server import database_holder
from ovspane.store.skew import ROW

#: where a host's member lives
FOLDER: Final = Path("/var/lib/ovspane/cluster")
ELECTION_MS: Final = 1000  # a follower stands for election after this long without a word from the leader
RAFT_PORT, PORT = 6644, 6645
ANSWER_LIMIT: Final = 10.0
#: seconds without a word after which a daemon may be forgotten
SILENT: Final = 60.0
#: what a restore adds to all versions, so that no decision made before it can pass after it
_AGES: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Serving:
    """How a member serves daemons: `listen` is tcp:IP:PORT or ssl:IP:PORT; the files are for ssl."""

    listen: str
    certificate: str = ""
    key: str = ""
    authority: str = ""

    @property
    def passive(self) -> str:
        """The `--remote` of ovsdb-server(1) that listens there. Raises StoreError when `listen` is not well formed."""
        kind, host, port = split_address(self.listen)
        return f"p{kind}:{port}:{host}"


def split_address(address: str) -> tuple[str, str, str]:
    """Kind, host and port of tcp:IP:PORT or ssl:IP:PORT. Raises StoreError."""
    found = re.fullmatch(r"(tcp|ssl):(\[[0-9A-Fa-f:.]+\]|[0-9.]+):([0-9]{1,5})", address)
    if found is None:
        raise StoreError(f"{address!r} is not tcp:IP:PORT or ssl:IP:PORT (an IPv6 address in square brackets)")
    return found[1], found[2], found[3]


class Member:
    """The member in `folder`. All methods raise StoreError with what the tool said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "member.db"
        self.socket = folder / "db.sock"
        self._control = folder / "ctl"
        self._serving = folder / "member.json"

    # --- making it

    def create(
        self, local: str, serving: Serving, election_ms: int = ELECTION_MS, contents: Path | None = None
    ) -> None:
        """The first member of a new cluster, listening to other members at `local`; with the contents of a database
        of one host or of a backup."""
        split_address(local)
        self._prepare(serving)
        source = self._source(contents)
        run_tool(
            "ovsdb-tool", f"--election-timer={election_ms}", "create-cluster", str(self.database), str(source), local
        )

    def join(self, local: str, remotes: Sequence[str], serving: Serving) -> None:
        """One more member of the cluster of which `remotes` are members; it joins when it runs."""
        for address in (local, *remotes):
            split_address(address)
        self._prepare(serving)
        run_tool("ovsdb-tool", "join-cluster", str(self.database), DATABASE, local, *remotes)

    def _prepare(self, serving: Serving) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.database.exists():
            raise StoreError(f"{self.database} is there already: this host is a member")
        _ = serving.passive  # is it well formed?
        if serving.listen.startswith("ssl:") and not (serving.certificate and serving.key and serving.authority):
            raise StoreError("ssl: needs a certificate, a key and an authority")
        self._serving.write_text(json.dumps(asdict(serving), indent=2) + "\n", encoding="utf-8")

    def _source(self, contents: Path | None) -> Path:
        """What to make a cluster of: the schema, or a database of our schema."""
        schema = self.folder / "ovspane.ovsschema"
        schema.write_text(schema_text(), encoding="utf-8")
        if contents is None:
            return schema
        if (holder := database_holder(contents)) is not None:
            raise StoreError(f"{contents} is in use by process {holder}: stop the daemon first")
        _check_version(run_tool("ovsdb-tool", "db-version", str(contents)), str(contents))
        fresh = self.folder / "contents.db"
        fresh.unlink(missing_ok=True)
        if run_tool("ovsdb-tool", "needs-conversion", str(contents), str(schema)) == "yes":
            run_tool("ovsdb-tool", "convert", str(contents), str(schema), str(fresh))
        else:
            shutil.copyfile(contents, fresh)
        return fresh

    def command(self) -> list[str]:
        """The command line that runs the server in the foreground."""
        if not self.database.exists():
            raise StoreError(f"{self.database} is not there: this host is no member; create or join a cluster")
        try:
            serving = Serving(**json.loads(self._serving.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as problem:
            raise StoreError(f"{self._serving}: {problem}") from problem
        files = [
            f"--private-key={serving.key}",
            f"--certificate={serving.certificate}",
            f"--ca-cert={serving.authority}",
        ]
        return [
            "ovsdb-server", str(self.database), f"--remote=punix:{self.socket}", f"--remote={serving.passive}",
            f"--unixctl={self._control}", "--no-chdir", "-vconsole:info", "-vsyslog:off", "-vfile:off",
            *(files if serving.key else []),
        ]  # fmt: skip

    # --- asking it

    def status(self) -> str:
        """What ovs-appctl(8) cluster/status says."""
        return run_tool("ovs-appctl", "-T", "5", "-t", str(self._control), "cluster/status", DATABASE)

    def daemons(self) -> list[tuple[str, str, float | None]]:
        """Host and name of each daemon that uses the database, and how long ago (seconds, by its clock and ours) it was
        heard of; None: never since the database has that."""
        [daemons, _] = self._daemon_rows()
        now = time.time()
        return sorted(
            (row["host"], row["name"], max(0.0, now - row["heard_ms"] / 1000) if row["heard_ms"] else None)
            for row in daemons
        )

    def skews(self) -> dict[str, float]:
        """How far (seconds) the clock of each daemon is ahead of those of most others, as it told itself."""
        [_, settings] = self._daemon_rows()
        return {
            row["name"].removeprefix(ROW): int(row["value"]) / 1000 for row in settings if row["name"].startswith(ROW)
        }

    def _daemon_rows(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        selects = [
            {"op": "select", "table": "Daemon", "where": [], "columns": ["host", "name", "heard_ms"]},
            {"op": "select", "table": "Setting", "where": [], "columns": ["name", "value"]},
        ]
        query = ("ovsdb-client", "--timeout=5", "--no-leader-only", "query", self._here)
        daemons, settings = json.loads(run_tool(*query, json.dumps([DATABASE, *selects])))
        return daemons["rows"], settings["rows"]

    def forget(self, daemon: str) -> tuple[str, int]:
        """Remove what a daemon that is gone told of its bridges and hosts, and itself; `daemon`: its name or its
        host, as `daemons` has them. Returns its name, and how many rows there were."""
        found = [(host, name, heard) for host, name, heard in self.daemons() if daemon in (host, name)]
        if len(found) != 1:
            raise StoreError(f"{len(found)} daemons are called {daemon!r}" + ("; say which by its id" if found else ""))
        [(_, name, heard)] = found
        if heard is not None and heard < SILENT:
            raise StoreError(
                f"the daemon {name} was heard of {heard:.0f} s ago: stop it first, and wait {SILENT:.0f} s"
            )
        where = {"Bridge": "daemon", "Attachment": "daemon", "Daemon": "name"}
        deletes = [{"op": "delete", "table": table, "where": [[column, "==", name]]} for table, column in where.items()]
        selects = [
            {"op": "select", "table": "Bridge", "where": [["daemon", "==", name]], "columns": ["name"]},
            {"op": "select", "table": "Version", "where": [], "columns": ["name"]},
        ]
        query = (
            "ovsdb-client",
            "--timeout=10",
            "--no-leader-only",
            "query",
            self._here,
            json.dumps([DATABASE, *selects]),
        )
        bridges, versions = ({row["name"] for row in result["rows"]} for result in json.loads(run_tool(*query)))
        unused = [f"turn:{name}", *sorted(one for one in versions if bridge_of(one) in bridges)]
        deletes += [{"op": "delete", "table": "Version", "where": [["name", "==", one]]} for one in unused]
        deletes.append({"op": "delete", "table": "Setting", "where": [["name", "==", ROW + name]]})
        answer = run_tool("ovsdb-client", "--timeout=10", "transact", self._here, json.dumps([DATABASE, *deletes]))
        return name, sum(result["count"] for result in json.loads(answer))

    def leave(self, seconds: float = 60.0) -> None:
        """Leave the cluster for good; the others go on with one member less."""
        run_tool("ovs-appctl", "-T", "5", "-t", str(self._control), "cluster/leave", DATABASE)
        deadline = time.monotonic() + seconds
        while True:
            try:
                status = self.status()
            except StoreError as problem:
                if "unknown cluster" in str(problem):  # ovsdb-server closes a database that left
                    return
                raise
            if "Status: left cluster" in status:
                return
            if time.monotonic() > deadline:
                raise StoreError(f"has not left within {seconds:g} s:\n{status}")
            time.sleep(0.1)

    def kick(self, server: str) -> None:
        """Remove another member (its id as in `status`, or its address) that will not come back."""
        run_tool("ovs-appctl", "-T", "5", "-t", str(self._control), "cluster/kick", DATABASE, server)

    def compact(self) -> None:
        """Have the running server write its log anew from its memory."""
        run_tool("ovs-appctl", "-T", "60", "-t", str(self._control), "ovsdb-server/compact", DATABASE)

    def backup(self, target: Path) -> None:
        """Write all that the database has to a file, from this member's copy."""
        fresh = target.with_name(target.name + ".new")
        with fresh.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            run_tool(
                "ovsdb-client", "--timeout=60", "--no-leader-only", "backup", self._here, DATABASE, output=file.fileno()
            )
            os.fsync(file.fileno())
        fresh.rename(target)

    def restore(self, source: Path) -> None:
        """Make the database what a backup has; daemons follow. What was admitted since is gone."""
        _check_version(run_tool("ovsdb-tool", "db-version", str(source)), str(source), exactly=True)
        with source.open("rb") as file:
            run_tool("ovsdb-client", "--timeout=60", "restore", self._here, DATABASE, data=file.fileno())
        older = {"op": "mutate", "table": "Version", "where": [], "mutations": [["number", "+=", _AGES]]}
        run_tool("ovsdb-client", "--timeout=10", "transact", self._here, json.dumps([DATABASE, older]))

    def upgrade(self) -> tuple[str, str]:
        """Bring a running cluster to our schema: (before, after)."""
        before = run_tool(
            "ovsdb-client", "--timeout=10", "--no-leader-only", "get-schema-version", self._here, DATABASE
        )
        _check_version(before, "the cluster")
        schema = self.folder / "ovspane.ovsschema"
        schema.write_text(schema_text(), encoding="utf-8")
        ours = str(json.loads(schema_text())["version"])
        if before != ours:
            run_tool("ovsdb-client", "--timeout=60", "convert", self._here, str(schema))
        return before, ours

    @property
    def _here(self) -> str:
        return f"unix:{self.socket}"


def _check_version(theirs: str, what: str, exactly: bool = False) -> None:
    ours = str(json.loads(schema_text())["version"])
    newer = [int(part) for part in theirs.split(".")] > [int(part) for part in ours.split(".")]
    if newer:
        raise StoreError(f"{what} has schema {theirs}, newer than {ours}: it belongs to a newer ovspane")
    if exactly and theirs != ours:
        raise StoreError(
            f"{what} has schema {theirs}, not {ours}: make a cluster of it (create --from), which converts it"
        )


def run_tool(*command: str, data: int | None = None, output: int | None = None) -> str:
    """What a program of Open vSwitch prints. Raises StoreError with what it said."""
    try:
        done = subprocess.run(
            [command[0], "-vconsole:err", *command[1:]] if command[0] != "ovs-appctl" else list(command),
            stdin=subprocess.DEVNULL if data is None else data,
            stdout=subprocess.PIPE if output is None else output,
            stderr=subprocess.PIPE,
        )
    except FileNotFoundError:
        raise StoreError(
            f"{command[0]} is not installed (Debian packages openvswitch-common, openvswitch-switch)"
        ) from None
    if done.returncode != 0:
        words = " ".join(word for word in command[1:3] if not word.startswith("-"))
        raise StoreError(f"{command[0]} {words}: {done.stderr.decode(errors='replace').strip()}")
    return (done.stdout or b"").decode().strip()
