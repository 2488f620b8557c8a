"""ovs-vswitchd's control socket: the commands of ovs-appctl(8) without a process for each.

It blocks: call it in a thread where a loop runs. Source: ovs-vswitchd(8), and lib/unixctl.c for the JSON-RPC that it
speaks.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path


class ControlUnavailable(Exception):
    """ovs-vswitchd's control socket is not there or refuses; the text says which."""


class ControlSocket:
    """ovs-vswitchd's unixctl socket: JSON-RPC, as ovs-appctl(8) speaks it. Raises ControlUnavailable."""

    def __init__(self, rundir: Path, timeout: float = 10.0) -> None:
        path = self._find(rundir)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(path))
        except OSError as problem:
            self._socket.close()
            raise ControlUnavailable(f"{path}: {problem.strerror or problem}") from problem
        self._decoder = json.JSONDecoder()

    @staticmethod
    def _find(rundir: Path) -> Path:
        try:
            pid = int((rundir / "ovs-vswitchd.pid").read_text())
            return rundir / f"ovs-vswitchd.{pid}.ctl"
        except (OSError, ValueError):
            return rundir / "ovs-vswitchd.ctl"  # as with --unixctl

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def call(self, command: str, *arguments: str) -> str:
        """The command's output. Raises ControlUnavailable, also where ovs-vswitchd refuses it."""
        try:
            self._socket.sendall(json.dumps({"id": 0, "method": command, "params": arguments}).encode())
            text = b""
            while True:
                chunk = self._socket.recv(1 << 16)
                if not chunk:
                    raise ControlUnavailable("ovs-vswitchd closed its control socket")
                text += chunk
                if not chunk.rstrip().endswith(b"}"):
                    continue  # not complete; parsing a long reply anew at each chunk would cost its square
                try:
                    reply, _ = self._decoder.raw_decode(text.decode())
                except ValueError:  # not complete yet, perhaps cut inside a character
                    continue
                break
        except OSError as problem:
            raise ControlUnavailable(f"ovs-vswitchd's control socket: {problem}") from problem
        if reply["error"] is not None:
            raise ControlUnavailable(f"{command}: {reply['error'].strip()}")
        return str(reply["result"])
