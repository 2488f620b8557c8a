"""A proxy between a daemon and a database server that loses what is said: for tests of transactions in doubt."""

from __future__ import annotations

import asyncio


class Gate:
    """A proxy that can swallow what the server answers, and cut the connection: an answer that is lost."""

    def __init__(self, remote: str) -> None:
        _, self._host, port = remote.split(":")
        self._port = int(port)
        self.swallow = self.hold = False
        #: what was lost, of either direction: for a test that waits until something was
        self.lost = b""
        self.connections = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"tcp:127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def shut(self) -> None:
        """Cut all connections, and refuse new ones until `reopen`."""
        self._address = self._server.sockets[0].getsockname()
        self._server.close()
        self.cut()

    async def reopen(self) -> None:
        """Serve again, at the same address."""
        self._server = await asyncio.start_server(self._serve, *self._address)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, back = await asyncio.open_connection(self._host, self._port)
        self._writers += [writer, back]
        await asyncio.gather(
            self._pump(reader, back, "hold"), self._pump(there, writer, "swallow"), return_exceptions=True
        )

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, flag: str) -> None:
        while data := await source.read(65536):
            if getattr(self, flag):
                self.lost += data
            else:
                sink.write(data)

    def cut(self) -> None:
        for writer in self._writers:
            writer.close()
        self._writers = []
        self.swallow = self.hold = False
        self.lost = b""

    def lost_transaction(self) -> bool:
        """A transaction is on its way to nowhere, or the answer to one."""
        return b'"transact"' in self.lost or b'"result":[' in self.lost
