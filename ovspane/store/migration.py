"""Rows that older versions wrote, as this one keeps them. Pure.

Until schema 1.2 a share's row had what was granted of it (`granted`: "PRINCIPAL GRANTER"), without the right by which,
and a revoke ended nothing below the share. Each is a row of Grant now, and what no right carries any more is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ovspane.packets.flowgroup import ALL
from ovspane.policy.model.tree import ROOT
from ovspane.policy.state.authority import Grant, Grants, Right, unsupported
from ovspane.policy.state.changes import ROOT_GRANT
from ovspane.policy.state.shares import ADMINISTRATOR, EVERY_PRIVILEGE, ROOT_SHARE, Share
from ovspane.store.records import Key, Record


def migrated(records: Sequence[Record]) -> tuple[list[Record], list[Record], list[Key]]:
    """The records as this version has them; and what makes the database so: records to put, and rows to delete. Raises
    ValueError, KeyError or TypeError for what no version wrote."""
    old = [record for record in records if record.table == "Share" and record.columns["granted"]]
    if not old:
        return list(records), [], []
    grants = Grants()
    grants.put(ROOT_GRANT)
    found: list[Grant] = []
    for record in old:
        for text in _texts(record):
            principal, granter = text.split(" ", 1)
            found.append(Grant(record.key, principal, granter, _right(record, principal, granter)))
            grants.put(found[-1])
    shares = {ROOT: ROOT_SHARE, **{record.key: _share(record) for record in records if record.table == "Share"}}
    children: dict[str, set[str]] = {name: set() for name in shares}
    for share in shares.values():
        if share.parent is not None:
            children[share.parent].add(share.name)
    dead = set(unsupported(grants, shares, children, ROOT))
    puts = [replace(record, columns={**record.columns, "granted": []}) for record in old if record.key != ROOT]
    puts += [_record(grant) for grant in found if grant not in dead and grant != ROOT_GRANT]
    fresh = {(record.table, record.key) for record in puts}
    drops = [("Share", ROOT)] if any(record.key == ROOT for record in old) else []
    kept = [record for record in records if (record.table, record.key) not in {*fresh, *drops}]
    return [*kept, *puts], puts, drops


def _texts(record: Record) -> Sequence[str]:
    texts = record.columns["granted"]
    if not isinstance(texts, Sequence) or isinstance(texts, str):
        raise TypeError(f"Share {record.key}: {texts!r} is no list")
    return [str(text) for text in texts]


def _right(record: Record, principal: str, granter: str) -> Right:
    if principal == granter == record.columns["creator"] and record.key != ROOT:
        return Right.MADE
    return Right.ADMINISTRATOR if granter == ADMINISTRATOR else Right.HELD


def _share(record: Record) -> Share:
    """As much of a share as its place in the tree needs."""
    if record.key == ROOT:
        return ROOT_SHARE
    return Share(record.key, str(record.columns["parent"]), ALL, EVERY_PRIVILEGE, str(record.columns["creator"]))


def _record(grant: Grant) -> Record:
    who = {"share": grant.share, "principal": grant.principal, "granter": grant.granter}
    return Record("Grant", " ".join(grant.key), {**who, "by": grant.right.value})
