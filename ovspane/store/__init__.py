"""Durable state: records in an OVSDB database of our own schema, or in memory.

See records (what a store promises), database, memory, server.
"""

from ovspane.store.database import OvsdbStore
from ovspane.store.memory import MemoryStore
from ovspane.store.records import Key, Record, Store, StoreError, TakenOver, Value
from ovspane.store.server import PrivateServer

__all__ = ["Key", "MemoryStore", "OvsdbStore", "PrivateServer", "Record", "Store", "StoreError", "TakenOver", "Value"]
