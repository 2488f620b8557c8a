"""Packets pass a deny when Open vSwitch lets a bridge fail open: the status, a notice, `verify` and `probe` say so."""

from __future__ import annotations

import json

from tests.lab.switch import vsctl
from tests.lab.topology import Lan
from tests.support.patience import wait_for
from tests.system.test_discovery import Watcher, attached, speak


def test_a_bridge_that_fails_open(lan: Lan) -> None:
    h1, h2 = lan.host("h1"), lan.host("h2")
    with Watcher() as daemon:
        listener = daemon.client()
        assert listener.ask("Subscribe.").startswith("OK")
        speak(lan)
        daemon.wait(lambda view: view.hosts == attached(lan), "hosts")
        number = daemon.request(f"deny(srcHost={h1.ip}, dstHost={h2.ip}) on rootShare.")
        daemon.settle()
        assert not h1.reaches(h2)
        assert daemon.run("verify", "--socket", str(daemon.socket)).returncode == 0
        # inactivity_probe 0: it does so at once, else after 15 seconds
        lost = ("tcp:127.0.0.1:9", "--", "set", "controller", lan.bridge, "inactivity_probe=0")
        vsctl("set-controller", lan.bridge, *lost)
        wait_for(lambda: daemon.requests()[number].startswith(f"degraded: bridge {lan.bridge} fails open"), "status")
        assert any(line.startswith(f"* degraded {number} deny(") for [line] in iter(listener.reply, []))
        wait_for(lambda: h1.reaches(h2), "packets that pass")
        proof = daemon.run("verify", "--socket", str(daemon.socket), "--format", "json")
        assert proof.returncode == 1
        assert "passed" in {finding["kind"] for finding in json.loads(proof.stdout)["findings"]}
        probe = daemon.probe(str(number), "--most", "8")
        assert probe.returncode == 1 and "does not enter the pipeline" in probe.stdout
        vsctl("del-controller", lan.bridge)
        wait_for(lambda: daemon.requests()[number].startswith("installed"), "status")
        wait_for(lambda: not h1.reaches(h2), "packets that do not pass")
