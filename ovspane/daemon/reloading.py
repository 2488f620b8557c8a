"""SIGHUP: take in of the settings what can be taken in while the daemon runs, and say of the rest that it needs a
restart. Nothing is ever worse after it: settings that cannot be read, or certificates, are said, and the old ones stay.

New certificates need no change of settings: the files are read again. (A restart changes no flow that is right, so
there is little that is worth changing without one.)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import fields

from ovspane.config import ConfigError, Settings
from ovspane.server.accepting import Acceptor, ListenError
from ovspane.server.tls import TlsListener, server_context

log = logging.getLogger(__name__)


def changed(old: Settings, new: Settings) -> list[str]:
    """The names of the settings that differ."""
    return [entry.name for entry in fields(Settings) if getattr(old, entry.name) != getattr(new, entry.name)]


def reload(settings: Settings, read: Callable[[], Settings], listeners: Iterable[Acceptor]) -> None:
    """Read the settings again with `read`; `settings` are those that the daemon was started with."""
    try:
        new = read()
    except ConfigError as problem:
        log.error("SIGHUP: %s; nothing was changed", problem)
        return
    for listener in listeners:
        if isinstance(listener, TlsListener):
            try:
                listener.use(server_context(new.tls.certificate, new.tls.key, new.tls.authority))
            except ListenError as problem:
                log.error("SIGHUP: %s; the certificates of before stay", problem)
            else:
                log.info("SIGHUP: new TLS connections get %s", new.tls.certificate)
    names = changed(settings, new)
    if names == ["tls"] and new.tls.listen == settings.tls.listen:
        names = []
    if names:
        log.warning("SIGHUP: %s changed; restart the daemon for that to take effect", ", ".join(names))
    else:
        log.info("SIGHUP: the settings are those at work")
