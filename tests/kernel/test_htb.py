"""set_queue and HTB on the kernel datapath, without the daemon: what a reservation of ovspane rests on."""

from tests.lab.switch import appctl, ofctl, run, vsctl
from tests.lab.throughput import Stream, measure
from tests.lab.topology import Lan

MBIT = 10**6
LINK, GUARANTEE = 20 * MBIT, 12 * MBIT
TOLERANCE = 0.15  # user-mode-linux: one processor, 10 ms ticks


def test_a_guaranteed_stream_gets_its_share_beside_a_flood(lan: Lan) -> None:
    h1, h2, h3 = lan.hosts
    vsctl(
        *("--", "set", "port", h3.device, "qos=@qos"),
        *("--", "--id=@qos", "create", "qos", "type=linux-htb", f"other-config:max-rate={LINK}"),
        *("queues:0=@rest", "queues:1=@ours"),
        *("--", "--id=@rest", "create", "queue", f"other-config:min-rate={LINK - GUARANTEE}"),
        *("--", "--id=@ours", "create", "queue", f"other-config:min-rate={GUARANTEE}"),
    )
    assert "rate 12Mbit" in run("tc", "class", "show", "dev", h3.device)
    ofctl("add-flow", lan.bridge, "priority=10,tcp,tp_dst=5201,actions=set_queue:1,NORMAL")
    # Queue N is tc class 1:(N+1), which the datapath's skb_priority names.
    trace = appctl("ofproto/trace", lan.bridge, f"in_port=1,tcp,nw_dst={h3.ip},dl_dst={h3.mac},tp_dst=5201")
    assert "skb_priority(0x10002)" in trace

    ours, flood = measure([Stream(h1, h3, 5201), Stream(h2, h3, 5202, udp=LINK)])
    assert ours >= GUARANTEE * (1 - TOLERANCE)
    assert flood <= (LINK - GUARANTEE) * (1 + TOLERANCE)
