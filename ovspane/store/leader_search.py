"""Which member of a cluster leads: all are asked at once, in their database `_Server` (ovsdb-server(7), section
"_Server database")."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ovspane.ovsdb.jsonrpc import CallError, Connection, connect
from ovspane.store.records import DATABASE, StoreError, schema_text

ASK_LIMIT: Final = 1.0  # seconds for a member to say whether it leads

#: hears what a member sends unasked: the connection, the method, its parameters
OnNotice = Callable[[Connection, str, Any], None]


class NoLeader(Exception):
    """No member leads now; the text says what each said."""


@dataclass(frozen=True, slots=True)
class Leader:
    """The member that leads, and the connection on which it said so."""

    remote: str
    connection: Connection


class _Unfit(Exception):
    """This member is of no use now; the text says why."""


async def find_leader(remotes: Sequence[str], tls: ssl.SSLContext | None, on_notice: OnNotice) -> Leader:
    """The first member that says that it leads. Its connection follows `_Server` (as "server"), which tells by
    `on_notice` when it leads no more. Raises NoLeader; StoreError when the database is not one that we can use."""
    asked = [asyncio.create_task(_ask(remote, tls, on_notice)) for remote in remotes]
    reasons: list[str] = []
    chosen: Leader | None = None
    try:
        for answer in asyncio.as_completed(asked):
            try:
                chosen = await answer
                return chosen
            except (OSError, TimeoutError, CallError, _Unfit) as problem:
                reasons.append(str(problem) or "no answer")
    finally:
        await _give_up(asked, chosen)
    raise NoLeader(f"no leader among {', '.join(remotes)} ({'; '.join(sorted(set(reasons)))})")


async def _give_up(asked: Sequence[asyncio.Task[Leader]], chosen: Leader | None) -> None:
    """End what was asked, but for the connection of the chosen one."""
    for task in asked:
        task.cancel()
    for outcome in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(outcome, Leader) and outcome is not chosen:
            outcome.connection.close()


async def _ask(remote: str, tls: ssl.SSLContext | None, on_notice: OnNotice) -> Leader:
    """The member if it leads. Raises OSError, TimeoutError, CallError, _Unfit; StoreError."""
    async with asyncio.timeout(ASK_LIMIT):
        connection = await connect(remote, tls)
        try:
            columns = {"Database": {"columns": ["name", "connected", "leader", "schema"]}}
            connection.on_notice = lambda method, params: on_notice(connection, method, params)
            rows = await connection.call("monitor", ["_Server", "server", columns])
            mine = [row["new"] for row in rows.get("Database", {}).values() if row["new"]["name"] == DATABASE]
            if not mine:
                raise _Unfit(f"{remote} has no database {DATABASE}")
            if not mine[0]["connected"]:
                raise _Unfit(f"{remote} is cut off from its cluster")
            if not mine[0]["leader"]:
                raise _Unfit(f"{remote} is a follower")
            _check_schema(remote, mine[0]["schema"])
        except BaseException:
            connection.close()
            raise
        return Leader(remote, connection)


def leader_lost(update: Any) -> bool:
    """Whether an update of `_Server` (RFC 7047 section 4.1.6) says that the member leads no more, or lost its
    majority."""
    rows = [row["new"] for row in update.get("Database", {}).values() if "new" in row]
    return any(row["name"] == DATABASE and not (row["leader"] and row["connected"]) for row in rows)


def _check_schema(remote: str, schema: str) -> None:
    """Raises StoreError when the database's schema is not ours."""
    theirs, ours = json.loads(schema).get("version", "0"), json.loads(schema_text())["version"]
    if _numbers(theirs) > _numbers(ours):
        raise StoreError(
            f"the database at {remote} has schema {theirs}, newer than {ours}: it belongs to a newer ovspane"
        )
    if _numbers(theirs) < _numbers(ours):
        raise StoreError(
            f"the database at {remote} has schema {theirs}, older than {ours}: run `ovspane cluster upgrade` on "
            "one member"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def client_context(certificate: str, key: str, authority: str) -> ssl.SSLContext | None:
    """For `ssl:` remotes: our certificate and key, and the authority that signs the members' (PEM files); None without
    them.

    As in all of Open vSwitch, a member is known by its certificate alone, not by its name in it. Raises StoreError.
    """
    if not certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    try:
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(authority)
    except OSError as error:  # ssl.SSLError is one
        raise StoreError(f"TLS to the database: {error} ({certificate}, {key}, {authority})") from error
    return context
