"""Records: to rows of OVSDB and back; what the schema does not allow."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovspane.store import MemoryStore, Record
from ovspane.store.records import checked, decoded, encoded, tables
from tests.support.stores import setting

safe_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(safe_text, st.lists(safe_text, max_size=4), st.dictionaries(safe_text, safe_text, max_size=4))
def test_every_share_survives_its_ovsdb_form(name: str, granted: list[str], privileges: dict[str, str]) -> None:
    record = checked(Record("Share", name, {"granted": granted, "privileges": privileges}))
    assert decoded("Share", json.loads(json.dumps(encoded(record, with_key=True)))) == record


@pytest.mark.parametrize(
    "record",
    [
        Record("Nowhere", "a"),
        Record("Request", "x"),
        Record("Request", "01"),
        Record("Request", str(2**63)),
        Record("Share", "a", {"colour": "red"}),
        Record("Share", "a", {"created": True}),
        Record("Share", "a", {"created": 1.5}),
        Record("Share", "a", {"granted": "Alice"}),
        Record("Share", "a", {"privileges": ["Alice"]}),
        Record("Share", "a", {"flowgroup": "nul \0"}),
        Record("Setting", "writer:local", {"value": "stolen"}),
    ],
)
def test_what_the_schema_does_not_allow_is_refused_and_changes_nothing(record: Record) -> None:
    async def run() -> None:
        store = MemoryStore()
        with pytest.raises(ValueError, match=r"."):
            await store.commit([setting("a", "1"), record])
        assert await store.load() == []

    asyncio.run(run())


def test_schema_has_the_tables_of_the_design() -> None:
    policy = {"Principal", "Share", "Grant", "Request", "Hint", "Setting", "Version", "Slot"}
    assert set(tables()) == policy | {"Daemon", "Bridge", "Attachment"}
    assert next(c for c in tables()["Request"].columns if c.name == "end_ms").kind == "optional"
