"""A real Service with real sockets for the server's tests: stores that really keep, clients that really connect."""

import asyncio
import contextlib
import os
import pickle
import socket
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

from ovspane.policy.state.state import Change, State, Value
from ovspane.server.accepting import DEFAULT_CAPS, ConnectionCaps, Owner
from ovspane.server.channel import Channel
from ovspane.server.limits import DEFAULT_LIMITS, ConnectionLimits
from ovspane.server.listener import UnixListener
from ovspane.server.output_stream import OutputStream
from ovspane.server.peers import UnixPeer
from ovspane.server.private_commit import PrivateCommit
from ovspane.server.service import Service
from ovspane.server.session import ClientSession
from ovspane.store import StoreError
from tests.support.patience import PATIENCE


class FileKeeper:
    """Appends each batch of changes to a file, with fsync; fails as a disk does: its descriptor is closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.batches = 0
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)

    async def load(self) -> Iterable[Value]:
        try:
            size = os.fstat(self._file).st_size
            data = os.pread(self._file, size, 0)
        except OSError as error:
            raise StoreError(str(error)) from error
        state = State()
        at = 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "big")
            for change in pickle.loads(data[at + 8 : at + 8 + length]):
                state.apply(change)
            at += 8 + length
        return list(state.values())

    async def keep(self, changes: Sequence[Change]) -> None:
        data = pickle.dumps(list(changes))
        try:
            os.write(self._file, len(data).to_bytes(8, "big") + data)
            os.fsync(self._file)
        except OSError as error:
            raise StoreError(str(error)) from error
        self.batches += 1

    def fail(self) -> None:
        os.close(self._file)
        self._file = -1

    def mend(self) -> None:
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND)


class AdministratorsListener(UnixListener):
    """Takes this process for root's when it is not: `make check` runs without root. Nothing else is different, and
    tests/unit/server/test_peers.py has the real thing."""

    def owner_of(self, connection: socket.socket) -> Owner:
        return Owner("uid 0", unlimited=True)

    async def open_session(self, connection: socket.socket) -> Channel:
        session = ClientSession(self._service, UnixPeer(0), None, self._limits, self.forget)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: session, connection)
        return session


class Client:
    """A line client on a Unix socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, path: Path) -> "Client":
        return cls(*await asyncio.open_unix_connection(str(path), limit=1 << 24))

    def send(self, text: str | bytes) -> None:
        self.writer.write(text if isinstance(text, bytes) else text.encode())

    async def line(self, seconds: float = PATIENCE) -> str:
        return (await asyncio.wait_for(self.reader.readline(), seconds)).decode().rstrip("\n")

    async def ask(self, text: str) -> str:
        self.send(text + "\n")
        return await self.line()

    async def at_end(self, seconds: float = PATIENCE) -> str:
        return (await asyncio.wait_for(self.reader.read(), seconds)).decode()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


class Served:
    def __init__(self, service: Service, listener: UnixListener, path: Path, keeper: FileKeeper) -> None:
        self.service = service
        self.listener = listener
        self.path = path
        self.keeper = keeper
        self._clients: list[Client] = []

    async def client(self) -> Client:
        client = await Client.connect(self.path)
        self._clients.append(client)
        return client

    async def close_clients(self) -> None:
        for client in self._clients:
            await client.close()


@contextlib.asynccontextmanager
async def running(keeper: FileKeeper) -> AsyncIterator[Service]:
    service = Service(PrivateCommit(keeper), clock=lambda: time.time_ns() // 1_000_000)
    await service.load()
    task = asyncio.create_task(service.run())
    try:
        yield service
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def serving(
    tmp_path: Path, caps: ConnectionCaps = DEFAULT_CAPS, limits: ConnectionLimits = DEFAULT_LIMITS, real: bool = False
) -> AsyncIterator[Served]:
    """A Service with a file-backed store, and its Unix listener."""
    keeper = FileKeeper(tmp_path / "kept")
    async with running(keeper) as service:
        path = tmp_path / "run" / "ovspane.sock"
        kind = UnixListener if os.geteuid() == 0 or real else AdministratorsListener
        listener = kind(service, path, caps=caps, limits=limits)
        await listener.start()
        served = Served(service, listener, path, keeper)
        try:
            yield served
        finally:
            await served.close_clients()
            await listener.close()
            assert OutputStream.busy == 0
