"""Rows of older versions: each grant becomes a row of its own with the right that it had, and dead rights stay out."""

from __future__ import annotations

import asyncio

from ovspane.policy.runtime import Runtime
from ovspane.policy.state.authority import Grant, Right
from ovspane.store import MemoryStore
from ovspane.store.keeper import StoreKeeper
from ovspane.store.migration import migrated
from ovspane.store.records import Record, checked


def share(name: str, parent: str, creator: str, *granted: str) -> Record:
    """As schema 1.2 kept it, of the columns that are left."""
    columns = {"parent": parent, "flowgroup": "(*)", "creator": creator, "granted": list(granted)}
    flags = {"allow": "True", "deny": "True", "reserve_min": "0"}
    return checked(Record("Share", name, {**columns, "privileges": flags}))


OLD = [
    share("rootShare", "", "root", "root root", "Rita root"),
    share("p", "rootShare", "root", "root root", "Alice root", "Bob Alice"),
    share("a", "p", "Alice", "Alice Alice", "Carol Alice", "Dave root"),
    # Eve made it when she held p; since that was revoked, and by schema 1.2 she and Fay kept it
    share("e", "p", "Eve", "Eve Eve", "Fay Eve", "everybody root"),
    share("f", "e", "Fay", "Fay Fay"),
    share("g", "a", "Eve", "Eve Eve", "Fay Eve"),
]


def test_grants_of_older_versions_are_kept_with_their_rights() -> None:
    async def play() -> None:
        store = MemoryStore()
        await store.commit(OLD)
        first = list(await StoreKeeper(store).load())
        state = Runtime(first).state
        assert {grant for grant in state.grants if grant.share != "rootShare"} == {
            Grant("p", "root", "root", Right.MADE),
            Grant("p", "Alice", "root", Right.ADMINISTRATOR),
            Grant("p", "Bob", "Alice", Right.HELD),
            Grant("a", "Alice", "Alice", Right.MADE),
            Grant("a", "Carol", "Alice", Right.HELD),
            Grant("a", "Dave", "root", Right.ADMINISTRATOR),
            Grant("e", "everybody", "root", Right.ADMINISTRATOR),
            Grant("f", "Fay", "Fay", Right.MADE),  # she holds e, as one of everybody
        }
        assert state.grants.holders("rootShare") == ["Rita", "root"]
        # it is done once: what is in the store now is of this version
        records = await store.load()
        assert migrated(records) == (records, [], [])
        assert set(map(repr, await StoreKeeper(store).load())) == set(map(repr, first))

    asyncio.run(play())
