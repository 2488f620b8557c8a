"""OpenFlow is packed in ovspane/openflow and nowhere else, and what discovery and probes send has not changed by that.

The bytes here were written by the code that packed each message by hand, up to commit 1e2d7d3.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

import pytest

from ovspane.audit.probe import messages
from ovspane.discovery import flows
from ovspane.openflow.actions import conjunction, load_register, metered_controller, output, resubmit, set_queue
from ovspane.openflow.constants import METER_MODIFY, NICIRA, TO_TABLES
from ovspane.openflow.flow_stats import flow_stats_request
from ovspane.openflow.framing import Request
from ovspane.openflow.meters import meter_stats_request, packet_meter_mod
from ovspane.openflow.packet_in import packet_in_requests
from ovspane.openflow.packet_out import packet_out
from ovspane.placement.pipeline import Pipeline
from tools.rooms import dotted_name, modules

MOVED = Pipeline(10, 5000)
COPIES = list(flows.add_copy_flows(MOVED, 0x1234))
WRITTEN: list[tuple[Callable[[], Request], int, str]] = [
    (
        lambda: list(flows.add_probe_flows(Pipeline(), 0x1234))[2],
        14,
        "70746f7000000000000000000000000064000000003cffffffffffffffffffffffffffff000000000001001c00011c04"
        "00000000800006060370616e650180000a0288b5000000000004002800000000ffff0020000023200025000000000000"
        "00010008123400000005000800103232",
    ),
    (
        lambda: list(flows.add_probe_flows(MOVED, 0x1234))[2],
        14,
        "70746f700000000000000000000000000a000000003cffffffffffffffffffffffffffff000000000001001c00011c04"
        "00000000800006060370616e650180000a0288b5000000000004002800000000ffff0020000023200025000000000000"
        "0001000812340000000500080001037a",
    ),
    (
        lambda: COPIES[0],
        14,
        "70746f7000000000000000000000000054000000003c0002ffffffffffffffffffffffff000000000001001200011c04"
        "0000000080000a0208060000000000000004005000000000ffff00200000232000250000000000000001000812340000"
        "0005000800010379ffff0018000023200007000000011e040000000000000001ffff001000002320000efff800000000",
    ),
    (
        lambda: COPIES[1],
        14,
        "70746f7000000000000000000000000054000000003c0002ffffffffffffffffffffffff000000000001002d00011c04"
        "0000000080000606ffffffffffff80000a020800800014011180001e0200448000200200430000000004005000000000"
        "ffff002000002320002500000000000000010008123400000005000800010379ffff0018000023200007000000011e04"
        "0000000000000001ffff001000002320000efff800000000",
    ),
    (
        lambda: COPIES[2],
        14,
        "70746f7000000000000000000000000054000000003c0002ffffffffffffffffffffffff000000000001002c00011c04"
        "000000008000070c333300000000ffff0000000080000a0286dd800014013a80003a0187000000000004005000000000"
        "ffff002000002320002500000000000000010008123400000005000800010379ffff0018000023200007000000011e04"
        "0000000000000001ffff001000002320000efff800000000",
    ),
    (
        lambda: COPIES[3],
        14,
        "70746f7000000000000000000000000054000000003c0002ffffffffffffffffffffffff000000000001002c00011c04"
        "000000008000070c333300000000ffff0000000080000a0286dd800014013a80003a0188000000000004005000000000"
        "ffff002000002320002500000000000000010008123400000005000800010379ffff0018000023200007000000011e04"
        "0000000000000001ffff001000002320000efff800000000",
    ),
    (
        lambda: list(flows.add_copy_flows(Pipeline(), 0x1234))[3],
        14,
        "70746f70000000000000000000000000ae000000003c0002ffffffffffffffffffffffff000000000001002c00011c04"
        "000000008000070c333300000000ffff0000000080000a0286dd800014013a80003a0188000000000004005000000000"
        "ffff002000002320002500000000000000010008123400000005000800103231ffff0018000023200007000000011e04"
        "0000000000000001ffff001000002320000efff800000000",
    ),
    (
        lambda: flows.add_uplink_flow(MOVED, 7),
        14,
        "70746f7000000000000000000000000054000000003c0003ffffffffffffffffffffffff000000000001001480000004"
        "0000000700011c0400000000000000000004003000000000ffff0018000023200007000000011e040000000000000001"
        "ffff001000002320000efff800000000",
    ),
    (
        lambda: flows.add_uplink_flow(MOVED, 0xFFFE),
        14,
        "70746f7000000000000000000000000054000000003c0003ffffffffffffffffffffffff000000000001001480000004"
        "fffffffe00011c0400000000000000000004003000000000ffff0018000023200007000000011e040000000000000001"
        "ffff001000002320000efff800000000",
    ),
    (
        lambda: flows.delete_uplink_flow(MOVED, 7),
        14,
        "70746f7000000000000000000000000054040000003c0003ffffffffffffffffffffffff000000000001001480000004"
        "0000000700011c040000000000000000",
    ),
    (
        lambda: flows.remove(MOVED)[0],
        14,
        "70746f7000000000ffffffff00000000ff03000000000000ffffffffffffffffffffffff000000000001000400000000",
    ),
    (lambda: flows.remove(MOVED)[1], 29, "0002000000010379"),
    (lambda: flows.remove(MOVED)[2], 29, "000200000001037a"),
    (lambda: packet_meter_mod(1_000_005, 100), 29, "0000000e000f424500010010000000640000006400000000"),
    (lambda: packet_meter_mod(77, 1000, METER_MODIFY), 29, "0001000e0000004d00010010000003e8000003e800000000"),
    (
        lambda: flows.send(b"\x01\x02frame", 3),
        13,
        "fffffffffffffffd00100000000000000000001000000003000000000000000001026672616d65",
    ),
    (
        lambda: flows.send(b"frame", 0xFFFE),
        13,
        "fffffffffffffffd001000000000000000000010fffffffe00000000000000006672616d65",
    ),
    (
        lambda: messages.add_catch_flow(0xDEADBEEF, 0x4321, False),
        14,
        "70707262deadbeef00000000000000000000001e001efffeffffffffffffffffffffffff000000000001000c00011c04"
        "deadbeef000000000004001800000000ffff0010000023200014ffff43210100",
    ),
    (
        lambda: messages.add_catch_flow(1, 1, True),
        14,
        "707072620000000100000000000000000000001e001efffeffffffffffffffffffffffff000000000001000c00011c04"
        "00000001000000000004005800000000ffff0010000023200014ffff00010100ffff0018000023200007001f00011c04"
        "0000000000000000ffff0018000023200007001f00011a040000000000000000ffff001000002320000efff800000000",
    ),
    (
        lambda: messages.delete_catch_flow(0xDEADBEEF),
        14,
        "70707262deadbeef00000000000000000004001e001efffeffffffffffffffffffffffff000000000001000c00011c04"
        "deadbeef00000000",
    ),
    (
        lambda: messages.send_probe(b"\x01\x02frame", 5, 0xDEADBEEF, 17),
        13,
        "ffffffff000000050040000000000000ffff0018000023200007001f00011c0400000000deadbeefffff001800002320"
        "0007001f00011a040000000000000011ffff001000002320000efff80000000001026672616d65",
    ),
    (
        lambda: messages.send_probe(b"frame", 0xFFFE, 1, 2),
        13,
        "fffffffffffffffe0040000000000000ffff0018000023200007001f00011c040000000000000001ffff001800002320"
        "0007001f00011a040000000000000002ffff001000002320000efff8000000006672616d65",
    ),
    (
        lambda: flow_stats_request(0, 0, 9),
        18,
        "000100000000000009000000ffffffffffffffff00000000000000000000000000000000000000000001000400000000",
    ),
    (lambda: meter_stats_request(), 18, "0009000000000000ffffffff00000000"),
    (lambda: packet_in_requests(0x1234)[0], 4, "00002320000000140000000000001234"),
    (lambda: packet_in_requests(0x1234)[1], 9, "0000ffff"),
    (
        lambda: packet_out(b"frame", 1, TO_TABLES),
        13,
        "ffffffff00000001001000000000000000000010fffffff900000000000000006672616d65",
    ),
]


@pytest.mark.parametrize(("build", "kind", "body"), WRITTEN)
def test_messages_are_on_the_wire_as_before(build: Callable[[], Request], kind: int, body: str) -> None:
    assert build() == (kind, bytes.fromhex(body))


@pytest.mark.parametrize(
    "build",
    [
        lambda: output(0),
        lambda: output(0x10000),
        lambda: set_queue(0xFFFFFFFF),
        lambda: resubmit(255),
        lambda: load_register(15, 2, 0, 1),
        lambda: load_register(14, -1),
        lambda: conjunction(1, 3, 2),
        lambda: metered_controller(0x10000, 1),
        lambda: metered_controller(1, 0),
    ],
)
def test_an_action_with_an_impossible_number_is_refused(build: Callable[[], bytes]) -> None:
    with pytest.raises(ValueError, match="is not within"):
        build()


#: modules outside ovspane/openflow that pack or parse bytes, which are no OpenFlow
PACKERS = {
    "ovspane.discovery.lldp": "probes",
    "ovspane.discovery.snoop": "ARP, neighbour discovery, DHCP",
    "ovspane.host.tc_events": "netlink",
    "ovspane.server.peers": "SO_PEERCRED",
    "ovspane.store.server": "struct flock of fcntl(2)",
}
#: types of messages that only builders of ovspane/openflow need
MESSAGES = frozenset({"FLOW_MOD", "METER_MOD", "PACKET_OUT", "EXPERIMENTER", "BUNDLE_ADD", "MULTIPART_REQUEST"})


def faults(module: str, tree: ast.AST) -> Iterator[str]:
    """What a module outside ovspane/openflow does that is only the codec's to do."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=value) if value == NICIRA and type(value) is int:
                yield f"{module}:{node.lineno}: a number of Nicira's extension"
            case ast.Import(names=names) if any(alias.name == "struct" for alias in names) and module not in PACKERS:
                yield f"{module}:{node.lineno}: packs bytes"
            case ast.ImportFrom(module="struct") if module not in PACKERS:
                yield f"{module}:{node.lineno}: packs bytes"
            case ast.ImportFrom(module="ovspane.openflow.constants", names=names):
                if built := {alias.name for alias in names} & MESSAGES:
                    yield f"{module}:{node.lineno}: builds {built} by hand"


def test_no_other_module_packs_openflow() -> None:
    sources = {dotted_name(path): path for path in modules() if path.suffix == ".py"}
    assert PACKERS.keys() <= sources.keys()
    outside = {name: path for name, path in sources.items() if not name.startswith("ovspane.openflow")}
    assert [fault for name, path in outside.items() for fault in faults(name, ast.parse(path.read_text()))] == []


def test_every_packer_outside_is_named_for_a_reason() -> None:
    """One that packs nothing any more leaves the table."""
    for path in modules():
        if (name := dotted_name(path)) in PACKERS:
            assert "import struct" in path.read_text(), name


@pytest.mark.parametrize(
    "source",
    [
        "import struct",
        "from struct import Struct",
        "import json, struct as s",
        "VENDOR = 8992",
        "f(0x2320, True)",
        "from ovspane.openflow.constants import ADD, FLOW_MOD",
    ],
)
def test_the_check_sees(source: str) -> None:
    assert len(list(faults("ovspane.discovery.flows", ast.parse(source)))) == 1
