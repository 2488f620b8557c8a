"""`ovspane restart-switch`: ours in front of Open vSwitch's own ovs-save, on a real switch that is restarted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovspane.cli.restart_switch_command import stand_in
from tests.support.ovs_dummy import DummyOvs

OPENVSWITCH = Path("/usr/share/openvswitch")
METERS = (
    "meter=1000001,kbps,burst,stats,band=type=drop,rate=2000,burst_size=1000",
    "meter=1000002,pktps,burst,stats,band=type=drop,rate=30,burst_size=30",
    "meter=7,pktps,band=type=drop,rate=100",
    "meter=8,kbps,band=type=drop,rate=4294967295",
)
FLOWS = (
    "cookie=0x70616e6500000001,table=140,priority=9,tcp,tp_dst=5201,actions=meter:1000001,goto_table:141",
    "table=0,priority=50,udp,tp_dst=7777,actions=drop",
    "table=9,priority=1,actions=meter:7,output:1",
)


@pytest.fixture
def switch() -> Iterator[DummyOvs]:
    if not (OPENVSWITCH / "scripts/ovs-save").exists():
        pytest.skip("Open vSwitch's scripts are not installed")
    with DummyOvs() as ovs:
        for name in ("br0", "br1", "empty"):
            ovs.add_bridge(name)
        ovs.add_port("br0", "p1", 1)
        yield ovs


def _contents(ovs: DummyOvs, bridge: str) -> tuple[list[str], set[str]]:
    lines = ovs.ofctl("dump-flows", "--no-stats", bridge).splitlines()
    flows = [line for line in lines if "actions=" in line]
    meters = ovs.ofctl("dump-meters", bridge).split("\n", 1)[1].split("\n\n")
    return sorted(flows), {meter.strip() for meter in meters}


def _saved(ovs: DummyOvs, data: Path, tmp_path: Path) -> Path:
    """What ovs-save writes for the restart."""
    script = tmp_path / "restore"
    done = subprocess.run(
        [data / "scripts/ovs-save", "save-flows", "br0", "br1", "empty"],
        env={**ovs.environment, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    script.write_text(done.stdout)
    return script


def _restore(ovs: DummyOvs, script: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", script], env=ovs.environment, capture_output=True, text=True)


def test_flows_and_the_meters_that_they_name_survive(switch: DummyOvs, tmp_path: Path) -> None:
    for meter in METERS:
        switch.ofctl("add-meter", "br0", meter)
    switch.ofctl("add-meter", "br1", METERS[0])
    for bridge, flows in (("br0", FLOWS), ("br1", FLOWS[:1])):
        switch.ofctl("del-flows", bridge)
        for flow in flows:
            switch.ofctl("add-flow", bridge, flow)
    before = {bridge: _contents(switch, bridge) for bridge in ("br0", "br1", "empty")}
    assert len(before["br0"][1]) == len(METERS)
    assert len(before["br0"][0]) == len(FLOWS)

    data = tmp_path / "data"
    data.mkdir()
    stand_in(OPENVSWITCH, data)
    script = _saved(switch, data, tmp_path)
    plain = tmp_path / "plain"
    plain.write_text("".join(re.findall(r"^(?!.* restore ).*\n", script.read_text(), re.M)).replace("rm -rf", "true"))

    switch.restart_vswitchd()
    refused = _restore(switch, plain)  # what the script does without ours: why this command is
    assert "INVALID_METER" in refused.stderr
    assert "7777" not in "".join(_contents(switch, "br0")[0])

    switch.restart_vswitchd()
    # a daemon that runs was quicker with one of them, which has another rate now
    switch.ofctl("add-meter", "br0", METERS[0].replace("rate=2000", "rate=2001"))
    done = _restore(switch, script)
    assert (done.returncode, done.stderr) == (0, "")
    flows, meters = _contents(switch, "br0")
    assert flows == before["br0"][0]
    assert {meter.replace("rate=2001", "rate=2000") for meter in meters} == before["br0"][1]
    assert any("rate=2001" in meter for meter in meters)
    assert {bridge: _contents(switch, bridge) for bridge in ("br1", "empty")} == {
        bridge: before[bridge] for bridge in ("br1", "empty")
    }


def test_a_bridge_that_cannot_be_read_does_not_stop_the_others(switch: DummyOvs, tmp_path: Path) -> None:
    switch.ofctl("add-meter", "br0", METERS[0])
    switch.vsctl("set", "bridge", "br1", "protocols=OpenFlow10")
    data = tmp_path / "data"
    data.mkdir()
    stand_in(OPENVSWITCH, data)
    done = subprocess.run(
        [data / "scripts/ovs-save", "save-flows", "br1", "br0"],
        env={**switch.environment, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "the meters of bridge br1: " in done.stderr
    assert done.stdout.splitlines()[0].endswith("meters br0")
    assert "replace-flows br1" in done.stdout


def test_the_script_gets_the_directory_and_gives_its_status(tmp_path: Path) -> None:
    """Whatever else the script looks for there is what it was; afterwards nothing is left."""
    real = tmp_path / "real"
    (real / "scripts").mkdir(parents=True)
    (real / "vswitch.ovsschema").write_text("schema")
    (real / "scripts" / "ovs-lib").write_text("lib")
    own = real / "scripts" / "ovs-save"
    own.write_text('#!/bin/sh\necho "own: $*"\n')
    own.chmod(0o755)
    script = tmp_path / "script"
    script.write_text(
        '#!/bin/sh\necho "$OVS_PKGDATADIR"\ncat "$OVS_PKGDATADIR"/vswitch.ovsschema "$OVS_PKGDATADIR"/scripts/ovs-lib\n'
        'echo; "$OVS_PKGDATADIR"/scripts/ovs-save save-interfaces eth0; exit "$1"\n'
    )
    script.chmod(0o755)
    for asked, given in ((["7"], 7), (["0"], 0)):
        done = subprocess.run(
            [sys.executable, "-m", "ovspane.cli.main", "restart-switch", script, *asked],
            env={**os.environ, "OVS_PKGDATADIR": str(real), "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        folder, *rest = done.stdout.splitlines()
        assert (done.returncode, rest) == (given, ["schemalib", "own: save-interfaces eth0"]), done.stderr
        assert folder != str(real)
        assert not Path(folder).exists()
    done = subprocess.run(
        [sys.executable, "-m", "ovspane.cli.main", "restart-switch", script],
        env={**os.environ, "OVS_PKGDATADIR": str(tmp_path / "none")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "ovspane: " in done.stderr
