"""SIGHUP reloads and never ends the daemon, whatever the configuration has become; what is in force stays."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.support.cluster import free_port
from tests.support.daemon_bridges import bridge, daemon_on, drops
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import wait_for


@pytest.fixture
def switch() -> Iterator[DummyOvs]:
    with DummyOvs() as ovs:
        bridge(ovs, "br0")
        yield ovs


def test_sighup(switch: DummyOvs) -> None:
    packet = "in_port=1,udp,nw_src=10.0.0.1,nw_dst=10.0.0.2,udp_dst=53"
    with daemon_on(switch) as daemon:
        pid = daemon.pid
        assert daemon.ask("deny(dstPort=53, transport=UDP) on rootShare.").startswith("OK")
        wait_for(lambda: drops(switch, packet), "deny")
        text = daemon.config.read_text(encoding="utf-8")
        for content, told in (
            (text, "SIGHUP: the settings are those at work"),
            (text + "\nhiding = true\n", "SIGHUP: hiding changed; restart the daemon"),
            (text + "\nhiding = maybe\n", "nothing was changed"),
        ):
            daemon.config.write_text(content, encoding="utf-8")
            os.kill(pid, signal.SIGHUP)
            wait_for(lambda told=told: daemon.logged(told), told)  # type: ignore[misc]
        assert daemon.pid == pid
        assert daemon.ask("Whoami.").startswith("OK")
        assert drops(switch, packet)
        daemon.config.write_text(text, encoding="utf-8")
        assert daemon.stop() == 0


def test_a_start_that_waits_for_a_leader_can_be_ended(switch: DummyOvs) -> None:
    """It does not give up by itself, says what it waits for, and ends when it is told to."""
    with daemon_on(switch) as daemon:
        daemon.stop()
        nobody = f"tcp:127.0.0.1:{free_port()}"
        text = daemon.config.read_text(encoding="utf-8")
        daemon.config.write_text(f'db = "{nobody}"\n' + text, encoding="utf-8")
        daemon.launch()
        wait_for(lambda: daemon.logged("database: ", "INFO"), "a word of what it waits for")
        assert daemon.stop() == 0
