"""`ovspane cluster`: this host's member of the database that many hosts share (ovspane(8)).

Exit status: 0 done, 1 not done, 2 bad usage; `status` gives 1 when there is no leader.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ovspane.store.elections import unheard
from ovspane.store.member import ELECTION_MS, FOLDER, PORT, RAFT_PORT, Member, Serving, split_address
from ovspane.store.member_check import log_problem, mend, rejoin, space_problem
from ovspane.store.records import StoreError
from ovspane.store.skew import BOUND

#: seconds by which a clock is said to differ from the others'
CLOCK_SHOWN = 0.5


def add_parser(subparsers: Any) -> None:
    """Add the command to the subparsers of `ovspane`."""
    parser = subparsers.add_parser(
        "cluster",
        help="this host's member of the database that many hosts share",
        description="Make, run and look after this host's member of the database cluster. See ovspane(8).",
    )
    parser.add_argument("--dir", type=Path, default=FOLDER, help=f"where the member lives ({FOLDER})")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, help="one of those below")

    def action(name: str, text: str, work: Any) -> argparse.ArgumentParser:
        one: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
        one.set_defaults(run=run, work=work)
        return one

    create = action("create", "make a new cluster with this host as its first member", _create)
    join = action("join", "make this host a member of a cluster that there is", _join)
    for one in (create, join):
        _add_addresses(one)
    timer = f"silence after which a leader is replaced ({ELECTION_MS})"
    create.add_argument("--election-timer", type=int, default=ELECTION_MS, metavar="MS", help=timer)
    create.add_argument(
        "--from", dest="contents", type=Path, metavar="FILE", help="contents: a database of one host, or a backup"
    )
    join.add_argument("remotes", nargs="+", metavar="MEMBER", help="where members of the cluster hear each other")
    action("run", "run the member's ovsdb-server in the foreground (what ovspane-db.service does)", _serve)
    action("status", "what the member says of the cluster, and which daemons use it", _status)
    action("check", "whether the running member could start again; mend its log", _check)
    again = action("rejoin", "make a member that cannot start any more a new one, with a copy from the others", _rejoin)
    again.add_argument(
        "remotes", nargs="*", metavar="MEMBER", help="where others hear each other; else as the old log says"
    )
    action("leave", "leave the cluster for good", _leave)
    kick = action("kick", "remove another member, which will not come back", _kick)
    kick.add_argument("server", metavar="SERVER", help="its id as `status` has it, or its address")
    forget = action("forget", "remove what a daemon that is gone for good told of its bridges and hosts", _forget)
    forget.add_argument("daemon", metavar="DAEMON", help="its id or its host, as `status` has them")
    for name, text, work in (
        ("backup", "write the database to a file", _backup),
        ("restore", "make the database what a backup has; what was admitted since is gone", _restore),
    ):
        action(name, text, work).add_argument("file", type=Path, metavar="FILE")
    action("upgrade", "bring the database to this version's schema, once on one member", _upgrade)


def _add_addresses(parser: argparse.ArgumentParser) -> None:
    local = f"tcp:IP[:{RAFT_PORT}] or ssl:…, where this member hears the others"
    parser.add_argument("local", metavar="ADDRESS", help=local)
    listen = f"where it hears daemons; default: the same IP, port {PORT}"
    parser.add_argument("--listen", metavar="ADDRESS", help=listen)
    parser.add_argument("--certificate", default="", metavar="FILE", help="of this member, for ssl: (PEM)")
    parser.add_argument("--key", default="", metavar="FILE", help="of the certificate (PEM)")
    parser.add_argument("--authority", default="", metavar="FILE", help="that signs the others' certificates (PEM)")


def run(args: argparse.Namespace) -> int:
    """Make, join, leave or show a cluster of databases. Returns the exit status."""
    try:
        return int(args.work(Member(args.dir), args))
    except (StoreError, OSError) as problem:
        print(f"ovspane: {problem}", file=sys.stderr)
        return 1


def _with_port(address: str, port: int) -> str:
    """tcp:IP as tcp:IP:PORT."""
    host = address.partition(":")[2]
    return (
        address
        if host.rpartition("]")[2].startswith(":") or (host.count(":") == 1 and "]" not in host)
        else f"{address}:{port}"
    )


def _serving(args: argparse.Namespace) -> Serving:
    kind, host, _ = split_address(_with_port(args.local, RAFT_PORT))
    listen = _with_port(args.listen, PORT) if args.listen else f"{kind}:{host}:{PORT}"
    return Serving(listen, args.certificate, args.key, args.authority)


def _create(member: Member, args: argparse.Namespace) -> int:
    member.create(_with_port(args.local, RAFT_PORT), _serving(args), args.election_timer, args.contents)
    print(f"made {member.database}; now run it: systemctl enable --now ovspane-db")
    return 0


def _join(member: Member, args: argparse.Namespace) -> int:
    remotes = [_with_port(remote, RAFT_PORT) for remote in args.remotes]
    member.join(_with_port(args.local, RAFT_PORT), remotes, _serving(args))
    print(f"made {member.database}; it joins when it runs: systemctl enable --now ovspane-db")
    return 0


def _serve(member: Member, args: argparse.Namespace) -> int:
    command = member.command()
    os.umask(0o077)
    os.environ["OVS_RUNDIR"] = str(member.folder)
    os.execvp(command[0], command)


def _status(member: Member, args: argparse.Namespace) -> int:
    text = member.status()
    print(text)
    print("Daemons:")
    skews = member.skews()
    for host, name, heard in member.daemons():
        told = "not heard of" if heard is None else f"heard of {heard:.0f} s ago"
        print(f"    {host} ({name}), {told}{_clock(skews.get(name, 0.0))}")
    problems = [one for one in (space_problem(member.database), log_problem(member.database)) if one]
    problems += unheard(text)
    for problem in problems:
        print(f"Problem: {problem}")
    well = "Status: cluster member" in text and "Leader: unknown" not in text and not problems
    return 0 if well else 1


def _check(member: Member, args: argparse.Namespace) -> int:
    if space := space_problem(member.database):
        print(space)
    problem = log_problem(member.database)
    if problem:
        print(f"it could not start again: {problem}")
        if problem := mend(member):
            raise StoreError(problem)
        print("its log was written anew; now it could")
    return 1 if space else 0


def _rejoin(member: Member, args: argparse.Namespace) -> int:
    kept = rejoin(member, [_with_port(remote, RAFT_PORT) for remote in args.remotes])
    print(f"joined again, and the old member is removed; its log is {kept}; now run it: systemctl start ovspane-db")
    return 0


def _clock(ahead: float) -> str:
    """What a daemon told of its clock, if that is worth a word."""
    if abs(ahead) < CLOCK_SHOWN:
        return ""
    note = "; it admits nothing until they agree" if abs(ahead) * 1000 > BOUND else ""
    return f", clock {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the others'{note}"


def _leave(member: Member, args: argparse.Namespace) -> int:
    member.leave()
    print(f"left; stop ovspane-db, and remove {member.folder} before it joins again")
    return 0


def _kick(member: Member, args: argparse.Namespace) -> int:
    member.kick(args.server)
    return 0


def _forget(member: Member, args: argparse.Namespace) -> int:
    name, rows = member.forget(args.daemon)
    print(f"{name} is forgotten, {rows} rows")
    return 0


def _backup(member: Member, args: argparse.Namespace) -> int:
    member.backup(args.file)
    return 0


def _restore(member: Member, args: argparse.Namespace) -> int:
    member.restore(args.file)
    return 0


def _upgrade(member: Member, args: argparse.Namespace) -> int:
    before, after = member.upgrade()
    print(f"schema {before} is current" if before == after else f"schema {before} is now {after}")
    return 0
