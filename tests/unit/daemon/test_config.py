"""Settings: every key is understood, overridden by the command line, and refused by name when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovspane.config import CompatSettings, ConfigError, Settings, load
from ovspane.network.model import PortId, StaticHost, link_key

FULL = """
socket = "/tmp/o.sock"
socket_mode = "0660"
socket_group = "users"
state_dir = "/tmp/state"
ovsdb = "tcp:127.0.0.1:6640"
rundir = "/tmp/run"
db = "unix:/tmp/db.sock"
bridges = ["br0", "br1"]
default_deny = true
conjunction = false
hiding = true
enforcement = "best-effort"
first_table = 20
meter_base = 500
[ports]
eth1 = "100Mb"
eth2 = "2.5Gb"
[compatibility]
listen = "127.0.0.1:4242"
allow_root = true
"""


def test_every_setting(tmp_path: Path) -> None:
    path = tmp_path / "ovspane.toml"
    path.write_text(FULL)
    assert load(path, {"bridges": None, "socket": "/tmp/other.sock"}) == Settings(
        socket=Path("/tmp/other.sock"),
        socket_mode=0o660,
        socket_group="users",
        state_dir=Path("/tmp/state"),
        ovsdb="tcp:127.0.0.1:6640",
        rundir=Path("/tmp/run"),
        db="unix:/tmp/db.sock",
        bridges=("br0", "br1"),
        default_deny=True,
        conjunction=False,
        hiding=True,
        enforcement="best-effort",
        first_table=20,
        meter_base=500,
        ports={"eth1": 100_000_000, "eth2": 2_500_000_000},
        compatibility=CompatSettings("127.0.0.1:4242", True, False),
    )


def test_defaults() -> None:
    settings = load(None, {})
    assert settings.socket == Path("/run/ovspane/ovspane.sock") and settings.state_dir == Path("/var/lib/ovspane")
    assert settings.socket_mode == 0o666 and not settings.compatibility.listen


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("sockt = 'x'", "sockt"),
        ("socket_mode = 'rw'", "socket_mode"),
        ("socket_mode = 660", "socket_mode"),  # 0o1224, without the quotes
        ("socket_mode = -1", "socket_mode"),
        ("socket_mode = 99999999999999999999", "socket_mode"),
        ("socket_mode = true", "socket_mode"),
        ("default_deny = 'yes'", "default_deny"),
        ("hiding = 1", "hiding"),
        ("conjunction = 'on'", "conjunction"),
        ("first_table = 250", "first_table"),
        ("first_table = true", "first_table"),
        ("meter_base = -1", "meter_base"),
        ("enforcement = 'maybe'", "enforcement"),
        ("bridges = 'br0'", "bridges"),
        ("bridges = [1]", "bridges"),
        ("[ports]\neth0 = 5", "ports.eth0"),
        ("[ports]\neth0 = 'fast'", "ports.eth0"),
        ("[police]\neth0 = '0.5b'", "police.eth0 must be above 0"),
        ("[compatibility]\nlisten = 4242", "compatibility.listen"),
        ("[compatibility]\npassword = 'x'", "compatibility.password"),
        ("[network]\nflood_tree = true", 'flood_tree needs network.placement = "paths"'),
        ("[network]\nflood_tree = 1\nplacement = 'paths'", "network.flood_tree must be a bool"),
        ("socket = ", "ovspane.toml"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "ovspane.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named):
        load(path, {})


def test_the_flood_tree_is_off_until_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "ovspane.toml"
    path.write_text("[network]\nplacement = 'paths'\nflood_tree = true")
    assert load(path, {}).network.flood_tree and not load(None, {}).network.flood_tree


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load(tmp_path / "nowhere.toml", {})


def test_static_hosts_and_links(tmp_path: Path) -> None:
    def settings(text: str) -> Settings:
        file = tmp_path / "c.toml"
        file.write_text(text)
        return load(file, {})

    good = settings(
        '[topology]\nlldp = false\ninterval = 9\n[hosts]\n"02:00:00:00:00:0A" = { port = "br0:e", addresses = '
        '["10.0.0.1"] }\n'
        '"02:00:00:00:00:0b" = {}\n[links]\nx = ["br1:b", "br0:a"]\n'
    )
    assert good.hosts == (
        StaticHost("02:00:00:00:00:0a", PortId("br0", "e"), ("10.0.0.1",)),
        StaticHost("02:00:00:00:00:0b"),
    )
    assert good.links == (link_key(PortId("br0", "a"), PortId("br1", "b")),)
    assert not good.topology.lldp and good.topology.snoop and good.topology.interval == 9
    for text, complaint in (
        ('[hosts]\n"ff:ff:ff:ff:ff:ff" = {}', "MAC"),
        ('[hosts]\n"02:00:00:00:00:0a" = { where = "br0:e" }', "unknown setting hosts"),
        ('[hosts]\n"02:00:00:00:00:0a" = { port = "br0" }', "BRIDGE:PORT"),
        ('[hosts]\n"02:00:00:00:00:0a" = { addresses = ["224.0.0.1"] }', "address of a host"),
        ('[hosts]\n"02:00:00:00:00:0a" = 5', "must be a dict"),
        ('[links]\nx = ["br0:a"]', "two ports"),
        ('[links]\nx = ["br0:a", "br0:a"]', "two ports"),
        ('[links]\nx = ["br0:a", 7]', "must be a str"),
        ("[topology]\ninterval = 0", "interval"),
        ('[topology]\nname = "a/b"', "name"),
        ("[topology]\nsnop = true", "unknown setting topology.snop"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            settings(text)
