"""SIGHUP takes in what it can and says the rest; bad settings change nothing (ovspane.daemon.reloading)."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ovspane.config import ConfigError, Settings, load
from ovspane.daemon.reloading import changed, reload


def settings(folder: Path, text: str) -> Settings:
    path = folder / "c.toml"
    path.write_text(text, encoding="utf-8")
    return load(path, {})


def test_what_changed_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = settings(tmp_path, 'bridges = ["br0"]\n[ports]\neth1 = "1Mb"')
    new = settings(tmp_path, 'bridges = ["br0"]\nhiding = true\n[ports]\neth1 = "2Mb"')
    assert changed(old, new) == ["hiding", "ports"]
    with caplog.at_level(logging.INFO):
        reload(old, lambda: new, [])
        reload(old, lambda: old, [])
    assert [record.getMessage() for record in caplog.records] == [
        "SIGHUP: hiding, ports changed; restart the daemon for that to take effect",
        "SIGHUP: the settings are those at work",
    ]


def test_what_cannot_be_read_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def read() -> Settings:
        raise ConfigError("unknown setting brigdes")

    reload(Settings(), read, [])
    assert "unknown setting brigdes; nothing was changed" in caplog.text
