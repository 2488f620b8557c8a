"""set_queue and HTB on the kernel datapath, without the daemon: what a reservation of ovspane rests on."""

from tests.kernel.control import judge, plain_port
from tests.kernel.scenarios import LINK, MBIT, Figure
from tests.lab import topology
from tests.lab.switch import appctl, ofctl, run, vsctl
from tests.lab.throughput import Stream, measure
from tests.lab.topology import Lan

GUARANTEE, SECONDS = 12 * MBIT, 5
TOLERANCE = 0.15  # user-mode-linux: one processor, 10 ms ticks


def test_a_guaranteed_stream_gets_its_share_beside_a_flood() -> None:
    sent: list[tuple[Stream, ...]] = []

    def figures() -> list[Figure]:
        with topology.one_bridge(3) as lan:
            return beside_a_flood(lan, sent)

    judge(figures, lambda: plain_port(sent, SECONDS), TOLERANCE)


def beside_a_flood(lan: Lan, sent: list[tuple[Stream, ...]]) -> list[Figure]:
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

    sent[:] = [(Stream(h1, h3, 5201), Stream(h2, h3, 5202, udp=LINK))]
    ours, flood = (rate / MBIT for rate in measure(sent[0], SECONDS))
    return [Figure("guaranteed 12", ours, "Mb/s", least=12), Figure("… the flood", flood, "Mb/s", most=8, rest=True)]
