"""What chaos is made in: a private Open vSwitch, a daemon whose state lies on a small file system of its own, clients.

Run it in namespaces of its own (__main__ sees to that). Two layouts; the first also with veths on another datapath:

    flat   br0 and br1 with three ports each, every rule on both            (placement = "everywhere")
    ring   br0, br1, br2 with a host each, linked in a circle by patches    (placement = "paths", flood_tree)
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ovspane.packets.fields import AddressSet
from tests.chaos.clock import Clock
from tests.chaos.ledger import SHARES, Item, Ledger
from tests.chaos.load import Client
from tests.support.daemon_process import DaemonProcess, Talk
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import PATIENCE

USERS = {"Alice": "10.0.0.1", "Bob": "10.0.0.2"}
LOCATIONS = {user: AddressSet.parse(address) for user, address in USERS.items()}
DISK = 24  # MiB, of the daemon's state
HOST_PORTS = {"flat": {1: ("br0", 1), 2: ("br0", 2), 3: ("br0", 3)}, "ring": {n: (f"br{n - 1}", 1) for n in (1, 2, 3)}}


class ClockedDaemon(DaemonProcess):
    """A daemon on a clock of ours."""

    clock: Clock

    def command(self, *more: str) -> list[str]:
        where = ("--socket", str(self.socket), "--state-dir", str(self.state_dir), "--log-level", "info")
        module = [sys.executable, "-m", "tests.chaos.clocked", str(self.clock.path)]
        return [*module, "daemon", "--config", str(self.config), *where, *more]


@dataclass(slots=True)
class Machine:
    """See the module's text. `dead`: processes that a fault has ended, to be started when it heals; `fallen`: how
    often those of Open vSwitch ended themselves."""

    layout: str
    datapath: str
    ovs: DummyOvs
    daemon: ClockedDaemon
    ledger: Ledger
    clients: list[Client] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)
    fallen: Counter[str] = field(default_factory=Counter)
    _talk: Talk | None = None

    @property
    def bridges(self) -> list[str]:
        return ["br0", "br1"] if self.layout == "flat" else ["br0", "br1", "br2"]

    @property
    def clock(self) -> Clock:
        return self.daemon.clock

    # --- processes

    def pid(self, who: str) -> int | None:
        """The pid of `daemon`, `store`, `vswitchd` or `ovsdb`, if it runs."""
        with contextlib.suppress(AssertionError, OSError, ValueError, RuntimeError):
            match who:
                case "daemon":
                    return self.daemon.pid if "daemon" not in self.dead else None
                case "store":
                    return self._store_pid() if "daemon" not in self.dead else None
                case "vswitchd":
                    return self.ovs.vswitchd_pid
                case "ovsdb":
                    return self.ovs.server_pid
        return None

    def _store_pid(self) -> int | None:
        """None while the child is still a copy of the daemon: a signal to that one would be the daemon's, too, as they
        share the descriptor by which Python tells of it."""
        pid = self.daemon.store_pid
        return pid if Path(f"/proc/{pid}/comm").read_text().strip() == "ovsdb-server" else None

    def signal(self, who: str, number: signal.Signals) -> None:
        """To a process, if it runs."""
        if (pid := self.pid(who)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def start_what_is_dead(self) -> None:
        """What a fault ended, in the order in which a host does it; the daemon is not waited for. Open vSwitch ends
        itself when it has no descriptor (`EMER` in its log): its monitor process would start it again."""
        for who in self.ovs.fallen:
            if who not in self.dead:
                self.fallen[who] += 1
                self.dead.add(who)
                (self.ovs.stop_vswitchd if who == "vswitchd" else self.ovs.stop_server)()
        if "ovsdb" in self.dead:
            self.ovs.start_server()
        if "vswitchd" in self.dead:
            self.ovs.start_vswitchd()
            self.add_foreign()
        if "daemon" in self.dead:
            self.daemon.launch()
        self.dead.clear()

    # --- bridges

    def make_bridge(self, name: str) -> None:
        """With its ports, as an administrator's script makes it: in one transaction, with the ports numbered."""
        words = ["add-br", name, "--", "set", "bridge", name, f"datapath_type={self.datapath}", "fail_mode=standalone"]
        words += ["protocols=OpenFlow10,OpenFlow13,OpenFlow14,OpenFlow15", f"other_config:hwaddr={_mac(name)}"]
        for number in (1, 2, 3) if self.layout == "flat" else (1,):
            words += self.port_words(name, number)
        if self.layout == "ring":
            here = int(name[2:])
            for number, there in ((2, (here + 1) % 3), (3, (here - 1) % 3)):
                port, peer = f"{name}p{number}", f"br{there}p{5 - number}"
                words += ["--", "add-port", name, port, "--", "set", "interface", port, "type=patch"]
                words += [f"options:peer={peer}", f"ofport_request={number}"]
        self.ovs.vsctl(*words)

    def port_words(self, bridge: str, number: int) -> list[str]:
        """Words for ovs-vsctl that add a host's port."""
        port = f"{bridge}p{number}"
        pcap = [f"options:tx_pcap={self.ovs.rundir}/{port}.pcap"] if self.layout == "ring" else []
        return ["--", "add-port", bridge, port, "--", "set", "interface", port, f"ofport_request={number}", *pcap]

    def add_foreign(self) -> None:
        """What is somebody else's, which nobody may touch: what bridges do by themselves, and on br0 a flow and a
        meter."""
        for bridge in self.bridges:
            self.ovs.ofctl("add-flow", bridge, "priority=0,actions=NORMAL")
        self.ovs.ofctl("del-meter", "br0", "meter=7")
        self.ovs.ofctl("add-meter", "br0", "meter=7,kbps,band=type=drop,rate=700")
        self.ovs.ofctl("add-flow", "br0", "table=200,cookie=0x77,priority=9,tcp,actions=meter:7,output:1")

    # --- talking

    def items(self, statement: str) -> list[Item]:
        """The items of an answer. Raises OSError, ValueError while the daemon has none."""
        try:
            if self._talk is None:
                self._talk = Talk(self.daemon.socket, PATIENCE)
                self._talk.ask("Format json.")
            answer = json.loads(self._talk.ask(statement))
        except (OSError, ValueError):
            self.hang_up()
            raise
        if answer["reply"] != "OK":
            raise ValueError(str(answer))
        return list(answer["items"])

    def hang_up(self) -> None:
        """Our own connection is dropped."""
        if self._talk is not None:
            self._talk.close()
            self._talk = None

    @property
    def descriptors(self) -> int:
        """How many the daemon has open."""
        return len(os.listdir(f"/proc/{self.daemon.pid}/fd"))

    def close(self) -> None:
        for client in self.clients:
            client.stop()
        self.hang_up()
        for who in ("daemon", "store", "vswitchd", "ovsdb"):
            self.signal(who, signal.SIGCONT)
        self.daemon.kill()
        self.ovs.close()
        subprocess.run(["umount", "-l", str(self.daemon.state_dir)], check=False)
        self.daemon.close()


def make(layout: str, seed: str, datapath: str = "dummy", clients: int = 2) -> Machine:
    """A machine that runs, whose clients wait for `go_on`."""
    ovs = DummyOvs(datapath=datapath)
    if datapath != "dummy":
        make_devices(f"{bridge}p{number}" for bridge in ("br0", "br1") for number in (1, 2, 3))
    daemon = ClockedDaemon(f"unix:{ovs.database}", ovs.rundir, _settings(layout))
    daemon.clock = Clock(Path(daemon.folder, "clock"))
    daemon.state_dir.mkdir()
    size = f"size={DISK}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(daemon.state_dir)], check=True)
    made = Machine(layout, datapath, ovs, daemon, Ledger(daemon.clock))
    try:
        for name in made.bridges:
            made.make_bridge(name)
        made.add_foreign()
        daemon.start()
        for user, address in USERS.items():
            daemon.do(f"AddUser {user}.", f"Locate {user} at {address}.")
        for share, (parent, most) in SHARES.items():
            who = {"alice": "user=Alice", "bob": "user=Bob"}.get(share, "*")
            may = f"deny = True, allow = True, ratelimit >= 1kb, reserve <= {most}Mb"
            daemon.do(f"NewShare {share} for ({who}) [{may}] on {parent}.")
        made.clients = [Client(daemon.socket, made.ledger, f"{seed}/{number}") for number in range(clients)]
        for client in made.clients:
            client.start()
    except BaseException:
        print(daemon.log[-3000:])
        made.close()
        raise
    return made


def _settings(layout: str) -> str:
    ports = HOST_PORTS[layout].values()
    speeds = "\n".join(f'{bridge}p{number} = "100Mb"' for bridge, number in ports)
    if layout == "ring":
        speeds += "".join(f'\nbr{bridge}p{number} = "100Mb"' for bridge in range(3) for number in (2, 3))
    hosts = "\n".join(
        f'"02:00:00:00:00:0{host}" = {{ port = "{bridge}:{bridge}p{number}", addresses = ["10.0.0.{host}"] }}'
        for host, (bridge, number) in HOST_PORTS[layout].items()
    )
    network = 'placement = "paths"\nflood_tree = true' if layout == "ring" else 'placement = "everywhere"'
    return f'enforcement = "best-effort"\n[network]\n{network}\n[ports]\n{speeds}\n[hosts]\n{hosts}\n'


def make_devices(names: Iterable[str]) -> None:
    """Devices of the system, in our network namespace; each one's other end is there as well."""
    for name in names:
        subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}far"], check=True)
        for end in (name, f"{name}far"):
            if (quiet := Path(f"/proc/sys/net/ipv6/conf/{end}/disable_ipv6")).exists():
                quiet.write_text("1")  # they say nothing of their own
            subprocess.run(["ip", "link", "set", end, "up"], check=True)


def _mac(bridge: str) -> str:
    return f"02:00:00:00:01:0{bridge[2:]}"
