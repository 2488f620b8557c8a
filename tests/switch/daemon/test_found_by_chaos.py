"""What `make chaos` found: each was right at last, and too late or never without somebody's help."""

from __future__ import annotations

from tests.support.daemon_bridges import RATES, TREE, daemon_on
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import wait_for

FOREIGN = "cookie=0x5,table=100,priority=65000,tcp,actions=drop"
#: as the daemon makes meters, for a request that was cancelled since
OF_OUR_FORM = "meter=1000077,kbps,burst,stats,band=type=drop,rate=700,burst_size=350"
THEIRS = "meter=1000078,kbps,burst,stats,band=type=drop,rate=700,burst_size=350"


def test_a_request_without_flows_is_well_again_when_a_foreign_flow_has_gone(switch: DummyOvs) -> None:
    """Of two limits on the same packets the higher has no flow by which it would be found."""
    with daemon_on(switch) as daemon:
        daemon.do(*TREE)
        higher = daemon.request("ratelimit(user=Alice, dstPort=80) = 3Mb on aBW to +1h.")
        daemon.settle()
        switch.ofctl("add-flow", "br0", FOREIGN)
        wait_for(lambda: "somebody else's flow" in daemon.requests()[higher], "word of the flow")
        daemon.request("ratelimit(user=Alice, dstPort=80) = 2Mb on aBW to +1h.")
        wait_for(lambda: "rate=3000" not in switch.ofctl("dump-meters", "br0"), "end of the higher one's meter")
        switch.ofctl("del-flows", "br0", "cookie=0x5/-1")
        wait_for(lambda: not any(line.startswith("degraded") for line in daemon.requests().values()), "end of it")


def test_a_meter_that_a_killed_daemon_left_is_deleted(switch: DummyOvs) -> None:
    """One that a flow of anybody names stays."""
    switch.ofctl("add-meter", "br0", OF_OUR_FORM)
    switch.ofctl("add-meter", "br0", THEIRS)
    switch.ofctl("add-flow", "br0", "table=200,tcp,actions=meter:1000078,output:1")
    with daemon_on(switch) as daemon:
        daemon.do(*TREE)
        daemon.request("ratelimit(user=Alice, dstPort=81) = 2Mb on aBW to +1h.")
        wait_for(lambda: "meter=1000077 " not in switch.ofctl("dump-meters", "br0"), "end of the meter")
        assert "meter=1000078 " in switch.ofctl("dump-meters", "br0")
        assert "meter=1000001 " in switch.ofctl("dump-meters", "br0")


def test_a_queue_row_that_somebody_changed_is_mended_at_once(switch: DummyOvs) -> None:
    """Nothing else happens meanwhile, and the next read-back would come after half a minute."""
    with daemon_on(switch, RATES) as daemon:
        daemon.do(*TREE)
        daemon.request("reserve(user=Alice, dstPort=82) = 3Mb on aBW to +1h.")
        daemon.settle()

        def rates() -> list[str]:
            table = switch.vsctl("--bare", "--columns=other_config", "find", "queue", "external_ids:ovspane=1")
            return sorted(table.split("\n\n"))

        good = rates()
        for column, value in (("other_config:min-rate", "12345"), ("other_config:max-rate", "54321")):
            for row in switch.vsctl("--bare", "--columns=_uuid", "find", "queue", "external_ids:ovspane=1").split():
                switch.vsctl("set", "queue", row, f"{column}={value}")
                wait_for(lambda: rates() == good, "the rates of before", 60)
        assert daemon.logged("", "ERROR") == 0
