"""A store that forgets: for replay and for tests of the rooms above. No I/O.

Invariant: what `load` gives equals what the database store would give after the same commits.
"""

from __future__ import annotations

from collections.abc import Sequence

from ovspane.store.records import Key, Record, checked, key_of, sort_key


class MemoryStore:
    """Keeps records in a dict."""

    def __init__(self) -> None:
        self._records: dict[Key, Record] = {}

    async def load(self) -> list[Record]:
        """See records.Store."""
        return sorted(self._records.values(), key=sort_key)

    async def commit(self, puts: Sequence[Record], deletes: Sequence[Key] = ()) -> None:
        """See records.Store. Raises ValueError, and then nothing is changed."""
        new = [checked(record) for record in puts]
        for table, key in deletes:
            key_of(table, key)
        self._records.update({(record.table, record.key): record for record in new})
        for gone in deletes:
            self._records.pop(gone, None)

    async def close(self) -> None:
        """Nothing to end."""
