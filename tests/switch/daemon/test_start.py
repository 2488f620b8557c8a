"""What a daemon finds when it starts: another daemon with its state, its socket or its bridge; bad settings; no
switch.
"""

from __future__ import annotations

import contextlib
import socket
import stat
import time

from tests.support.daemon_bridges import (
    ALICE,
    RATES,
    TREE,
    daemon_on,
    drops,
    flows,
    rows,
    wait_verdict,
)
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import PATIENCE, wait_for


def test_two_daemons(switch: DummyOvs) -> None:
    with daemon_on(switch) as daemon:
        daemon.do(*TREE)
        daemon.request("deny(user=Alice) on aAC to +1h.")
        daemon.settle()
        before = flows(switch)
        second = daemon_on(switch)
        try:
            second.state_dir = daemon.state_dir
            second.launch()
            assert second.process is not None
            assert second.process.wait(PATIENCE) == 1
            assert f"{daemon.state_dir} is in use by another ovspane daemon (pid {daemon.pid})" in second.log
            second.log_file.unlink()
            second.state_dir, second.socket = second.folder / "other", daemon.socket
            second.launch()
            assert second.process.wait(PATIENCE) == 1
            assert f"{daemon.socket} belongs to another ovspane daemon that is running" in second.log
        finally:
            second.close()
        assert daemon.requests()
        assert flows(switch) == before


def test_a_bridge_has_one_daemon(switch: DummyOvs) -> None:
    """Two daemons with state of their own: the second says so and touches nothing; when the first dies it takes
    over."""
    with daemon_on(switch, RATES) as daemon:
        daemon.do(*TREE)
        daemon.request("deny(user=Alice, dstPort=80) on aAC to +1h.")
        daemon.request("reserve(user=Alice, dstPort=82) = 3Mb on aBW to +1h.")
        daemon.settle()
        wait_for(lambda: len(rows(switch, "queue")) == 4, "two queues on each of two ports")
        before = flows(switch), rows(switch, "qos"), rows(switch, "queue")
        with daemon_on(switch, RATES) as second:
            second.do(*TREE)
            number = second.request("deny(user=Alice, dstPort=90) on aAC to +1h.")
            second.settle()
            assert second.requests()[number].startswith("degraded: bridge br0 is driven by another ovspane daemon ")
            done = second.run("cleanup")
            assert done.returncode == 1
            assert "bridge br0 is driven by another ovspane daemon; stop it first" in done.stderr
            switch.stop_server(kill=True)  # all locks are free; who had them is first
            switch.start_server()
            assert daemon.ask("deny(user=Alice, dstPort=81) on aAC to +1h.").startswith("OK")
            wait_verdict(switch, f"in_port=1,udp,{ALICE},udp_dst=81", dropped=True)
            time.sleep(1.5)  # the second has asked again by now
            assert second.requests()[number].startswith("degraded: bridge br0 is driven by another ovspane daemon ")
            assert not drops(switch, f"in_port=1,udp,{ALICE},udp_dst=90")
            assert set(flows(switch)) > set(before[0])
            assert (rows(switch, "qos"), rows(switch, "queue")) == before[1:]
            daemon.kill()
            wait_verdict(switch, f"in_port=1,udp,{ALICE},udp_dst=90", dropped=True)
            wait_verdict(switch, f"in_port=1,udp,{ALICE},udp_dst=80", dropped=False)
            second.settle()
            assert second.requests()[number].startswith("installed ")


def test_a_socket_path_in_use_is_left_alone(switch: DummyOvs) -> None:
    with contextlib.closing(daemon_on(switch)) as daemon:
        with socket.socket(socket.AF_UNIX) as somebody:
            somebody.bind(str(daemon.socket))
            somebody.listen()
            daemon.launch()
            assert daemon.process is not None
            assert daemon.process.wait(PATIENCE) == 1
            assert f"somebody listens on {daemon.socket}" in daemon.log
            assert stat.S_ISSOCK(daemon.socket.lstat().st_mode)
        assert flows(switch) == []  # the switch was not touched either
        daemon.start()  # nobody listens there any more
        assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o666
        assert daemon.stop() == 0
        assert not daemon.socket.exists()
        daemon.socket.write_text("a file")
        daemon.launch()
        assert daemon.process.wait(PATIENCE) == 1
        assert daemon.socket.read_text() == "a file"


def test_bad_settings_are_named(switch: DummyOvs) -> None:
    with contextlib.closing(daemon_on(switch, "colour = 3")) as daemon:
        daemon.launch()
        assert daemon.process is not None
        assert daemon.process.wait(PATIENCE) == 2
        assert "unknown setting colour" in daemon.log


def test_a_daemon_without_a_switch_serves_and_waits_for_it(switch: DummyOvs) -> None:
    switch.stop_vswitchd()
    switch.stop_server()
    with daemon_on(switch) as daemon:
        daemon.do(*TREE)
        assert daemon.ask("deny(user=Alice) on aAC to +1h.") == "OK id=1 note=no-switch"
        number = 1
        why = f"degraded: Open vSwitch cannot be reached at unix:{switch.database}"
        wait_for(lambda: daemon.requests()[number].startswith(why), "the reason")
        daemon.wait_for_log(f"unix:{switch.database} cannot be reached; what is new waits for it")
        switch.start_server()
        switch.start_vswitchd()
        # A bridge without flows drops everything: that it drops is not yet the daemon's doing.
        wait_for(lambda: daemon.requests()[number].startswith("installed"), "the deny's flow")
        assert [flow for flow in flows(switch) if "actions=drop" in flow]
        assert drops(switch, f"in_port=1,udp,{ALICE}")
        assert daemon.stop() == 0
