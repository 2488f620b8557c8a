"""Settings of the daemon: typed, from a TOML file and the command line. Read once, at the start.

An unknown key or a value of the wrong kind is an error with its name, never ignored: a setting that is silently not in
force is worse than a daemon that does not start.

    socket = "/run/ovspane/ovspane.sock"   # where clients connect
    socket_mode = "0666"                   # who may do what is decided by the share tree
    socket_group = "users"                 # unset: the daemon's own group
    state_dir = "/var/lib/ovspane"
    ovsdb = "unix:/var/run/openvswitch/db.sock"
    rundir = "/var/run/openvswitch"        # where the bridges' .mgmt sockets are
    db = "tcp:10.0.0.1:6645,tcp:10.0.0.2:6645" # the members of a database that many hosts share; unset: a private one
    bridges = ["br0"]                      # unset: all
    default_deny = false
    conjunction = true                     # say products of sets with conjunctive matches where those are fewer flows
    hiding = false                         # keep flows off the bridges that another one covers
    enforcement = "strict"                 # or "best-effort": accept reservations that no port can enforce
    first_table = 100                      # our OpenFlow tables: first_table .. first_table + 74
    meter_base = 1000000                   # our meters: from meter_base + 1 on
    adopt = ["eth1"]                       # ports whose QoS row of another owner ours may stand in for meanwhile
    [ports]
    eth1 = "100Mb"                         # what a port can send, where the link speed does not tell
    [police]
    eth1 = "50Mb"                          # what a port may send into the switch at most, all its traffic together
    [network]
    placement = "everywhere"               # "paths": each rule only on the bridges that its packets enter or cross
    reservable = 75                        # what may be reserved of a port's speed, in percent
    flood_tree = false                     # keep what floods off redundant links, and steer reservations over them;
                                           # needs placement = "paths"
    paths = 4                              # how many paths are tried for a reservation where links are redundant
    [topology]
    lldp = true                            # probe links
    snoop = true                           # learn hosts' addresses from their ARP, neighbour discovery and DHCP
    interval = 2                           # seconds between probes
    host_age = 300                         # seconds after which a host that is not seen any more is forgotten
    secret = ""                            # daemons with the same one find links between their hosts; with db they
                                           # have one in it
    name = ""                              # this host's name to them; unset: the system's
    [hosts]
    "52:54:00:12:34:56" = { port = "br0:eth1", addresses = ["192.0.2.7"] }  # what is said here wins over what is seen
    [links]
    core = ["br0:eth2", "br1:eth2"]        # two ports, BRIDGE:PORT, that are linked
    [compatibility]
    listen = "127.0.0.1:4242"              # the wire protocol of the PANE prototype; unset: off
    allow_root = false
    force = false                          # permit an address that is not loopback
    [tls]
    listen = "192.0.2.1:6653"              # sessions of clients with a certificate; unset: off
    certificate = "/etc/ovspane/cert.pem"  # ours, its key, and the authority that signs our clients' (PEM)
    key = "/etc/ovspane/key.pem"
    authority = "/etc/ovspane/clients.pem"
    [db_tls]
    certificate = "/etc/ovspane/cert.pem"  # for ssl: ours, its key, the authority that signs the members' of `db` (PEM)
    key = "/etc/ovspane/key.pem"
    authority = "/etc/ovspane/members.pem"
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ovspane.lang.parser import SyntaxFault, parse_rate
from ovspane.network.addresses import usable_address, usable_mac
from ovspane.network.model import LinkKey, PortId, StaticHost, link_key


class ConfigError(ValueError):
    """The configuration cannot be used; the text names the setting."""


@dataclass(frozen=True, slots=True)
class CompatSettings:
    """[compatibility]: the listener of the prototype's protocol; `listen` "": none."""

    listen: str = ""
    allow_root: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """[tls]: the listener for clients elsewhere; `listen` "": none. Paths of PEM files."""

    listen: str = ""
    certificate: str = ""
    key: str = ""
    authority: str = ""


@dataclass(frozen=True, slots=True)
class DbTlsSettings:
    """[db_tls]: how the members of a shared database know each other. Paths of PEM files; "": no TLS."""

    certificate: str = ""
    key: str = ""
    authority: str = ""


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """[network]: where rules and reservations are placed. `reservable`: percent of a port's speed; `paths`: how many
    are tried for a reservation."""

    placement: str = "everywhere"
    reservable: int = 75
    flood_tree: bool = False
    paths: int = 4


@dataclass(frozen=True, slots=True)
class TopologySettings:
    """[topology]: how the network is discovered. `interval` of LLDP probes and `host_age` in seconds."""

    lldp: bool = True
    snoop: bool = True
    interval: int = 2
    host_age: int = 300
    secret: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module's text for the meaning. `ports` and `police` in bit/s."""

    socket: Path = Path("/run/ovspane/ovspane.sock")
    socket_mode: int = 0o666
    socket_group: str = ""
    state_dir: Path = Path("/var/lib/ovspane")
    ovsdb: str = "unix:/var/run/openvswitch/db.sock"
    rundir: Path = Path("/var/run/openvswitch")
    db: str = ""
    bridges: tuple[str, ...] = ()
    default_deny: bool = False
    conjunction: bool = True
    hiding: bool = False
    enforcement: str = "strict"
    first_table: int = 100
    meter_base: int = 1_000_000
    ports: Mapping[str, int] = field(default_factory=dict)
    adopt: tuple[str, ...] = ()
    police: Mapping[str, int] = field(default_factory=dict)
    network: NetworkSettings = NetworkSettings()
    topology: TopologySettings = TopologySettings()
    hosts: tuple[StaticHost, ...] = ()
    links: tuple[LinkKey, ...] = ()
    compatibility: CompatSettings = CompatSettings()
    tls: TlsSettings = TlsSettings()
    db_tls: DbTlsSettings = DbTlsSettings()


def load(path: Path | None, overrides: Mapping[str, Any]) -> Settings:
    """Settings from a file (None: the defaults), with those of the command line (None values: not given) on top.

    Raises ConfigError.
    """
    raw: dict[str, Any] = {}
    if path is not None:
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
            raise ConfigError(f"{path}: {problem}") from problem
    raw |= {key: value for key, value in overrides.items() if value is not None}
    known = {entry.name for entry in fields(Settings)}
    unknown = sorted(set(raw) - known)
    if unknown:
        raise ConfigError(f"unknown setting {unknown[0]}; known are {', '.join(sorted(known))}")
    settings = Settings(**{key: _typed(key, value) for key, value in raw.items()})
    _check(settings)
    return settings


def _typed(key: str, value: Any) -> Any:
    match key:
        case "socket" | "state_dir" | "rundir":
            return Path(_expect(key, value, str, Path))
        case "socket_mode":
            return _mode(key, value)
        case "bridges" | "adopt":
            return tuple(_expect(key, name, str) for name in _expect(key, value, list, tuple))
        case "ports" | "police":
            return {name: _speed(f"{key}.{name}", speed) for name, speed in _expect(key, value, dict).items()}
        case "compatibility":
            return CompatSettings(**_table(key, value, CompatSettings))
        case "network":
            return NetworkSettings(**_table(key, value, NetworkSettings))
        case "topology":
            return TopologySettings(**_table(key, value, TopologySettings))
        case "hosts":
            return tuple(_host(mac, entry) for mac, entry in _expect(key, value, dict).items())
        case "links":
            return tuple(_link(name, ends) for name, ends in _expect(key, value, dict).items())
        case "tls":
            return TlsSettings(**_table(key, value, TlsSettings))
        case "db_tls":
            return DbTlsSettings(**_table(key, value, DbTlsSettings))
        case "default_deny" | "conjunction" | "hiding":
            return _expect(key, value, bool)
        case "first_table" | "meter_base":
            return _expect(key, value, int)
        case _:
            return _expect(key, value, str)


def _table(key: str, value: Any, shape: type[Any]) -> dict[str, Any]:
    """The entries of a TOML table, each of the kind of its default."""
    kinds = {entry.name: type(entry.default) for entry in fields(shape)}
    given = _expect(key, value, dict)
    unknown = sorted(set(given) - set(kinds))
    if unknown:
        raise ConfigError(f"unknown setting {key}.{unknown[0]}; known are {', '.join(kinds)}")
    return {name: _expect(f"{key}.{name}", entry, kinds[name]) for name, entry in given.items()}


def _host(mac: str, value: Any) -> StaticHost:
    key = f"hosts.{mac}"
    given = _expect(key, value, dict)
    unknown = sorted(set(given) - {"port", "addresses"})
    if unknown:
        raise ConfigError(f"unknown setting {key}.{unknown[0]}; known are port, addresses")
    known = usable_mac(mac)
    if known is None:
        raise ConfigError(f"hosts: {mac!r} is not the MAC address of a host")
    port = _port(f"{key}.port", given["port"]) if "port" in given else None
    addresses = []
    for text in _expect(f"{key}.addresses", given.get("addresses", []), list):
        one = usable_address(_expect(f"{key}.addresses", text, str))
        if one is None:
            raise ConfigError(f"{key}.addresses: {text!r} is not the address of a host")
        addresses.append(one)
    return StaticHost(known, port, tuple(addresses))


def _link(name: str, value: Any) -> LinkKey:
    key = f"links.{name}"
    ends = [_port(key, end) for end in _expect(key, value, list)]
    if len(ends) != 2 or ends[0] == ends[1]:
        raise ConfigError(f"{key} must be two ports")
    return link_key(*ends)


def _port(key: str, value: Any) -> PortId:
    try:
        return PortId.parse(_expect(key, value, str))
    except ValueError as problem:
        raise ConfigError(f"{key}: {problem}") from problem


def address(key: str, text: str) -> tuple[str, int]:
    """HOST:PORT or [HOST]:PORT. Raises ConfigError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 0xFFFF:
        raise ConfigError(f"{key} must be ADDRESS:PORT, not {text!r}")
    return host.strip("[]"), int(port)


def _expect(key: str, value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ConfigError(f"{key} must be a {kinds[0].__name__}, not {value!r}")
    return value


def _mode(key: str, value: Any) -> int:
    try:
        mode = _expect(key, value, int) if isinstance(value, int) else int(_expect(key, value, str), 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:  # 660 without quotes is a decimal number
        raise ConfigError(f'{key} must be an octal number such as "0660" (or 0o660)')
    return mode


def _speed(name: str, value: Any) -> int:
    try:
        rate = parse_rate(_expect(name, value, str))
    except SyntaxFault as fault:
        raise ConfigError(f"{name}: expected {fault.expected}") from fault
    if not rate:  # would mean as much as that it is not there
        raise ConfigError(f"{name} must be above 0")
    return rate


def _check(settings: Settings) -> None:
    if settings.network.placement not in ("everywhere", "paths"):
        raise ConfigError('network.placement must be "everywhere" or "paths"')
    if settings.network.flood_tree and settings.network.placement != "paths":
        raise ConfigError(
            'network.flood_tree needs network.placement = "paths": only then rules follow the ways of packets'
        )
    if not 1 <= settings.network.paths <= 64:
        raise ConfigError("network.paths must be from 1 to 64")
    if not 1 <= settings.network.reservable <= 100:
        raise ConfigError("network.reservable must be from 1 to 100 percent")
    if not 1 <= settings.topology.interval <= 3600 or settings.topology.host_age < 1:
        raise ConfigError("topology.interval must be from 1 to 3600 seconds, topology.host_age at least 1")
    if "/" in settings.topology.name or len(settings.topology.name) > 200 or not settings.topology.name.isprintable():
        raise ConfigError("topology.name must have at most 200 printable characters and no /")
    if settings.enforcement not in ("strict", "best-effort"):
        raise ConfigError('enforcement must be "strict" or "best-effort"')
    for key, text in (("compatibility.listen", settings.compatibility.listen), ("tls.listen", settings.tls.listen)):
        if text:
            address(key, text)
    if settings.tls.listen and not (settings.tls.certificate and settings.tls.key and settings.tls.authority):
        raise ConfigError("tls.listen needs tls.certificate, tls.key and tls.authority")
    given = settings.db_tls
    if "ssl:" in settings.db and not (given.certificate and given.key and given.authority):
        raise ConfigError("db with ssl: needs db_tls.certificate, db_tls.key and db_tls.authority")
    if not 1 <= settings.first_table <= 179:
        raise ConfigError("first_table must be from 1 to 179: 75 tables must fit below 254")
    if not 0 <= settings.meter_base <= 0xFFFF0000 - 0xF000:
        raise ConfigError("meter_base must leave room for 61 440 meters")
