"""What each part of the daemon needs of the settings."""

from __future__ import annotations

import socket

from ovspane.config import Settings
from ovspane.discovery.settings import DiscoverySettings
from ovspane.network.hosts import HostLimits
from ovspane.placement.pipeline import Pipeline
from ovspane.switch.scope import BridgeScope


def pipeline_of(settings: Settings) -> Pipeline:
    """Which tables and meters are ours."""
    return Pipeline(settings.first_table, settings.meter_base)


def scope_of(settings: Settings) -> BridgeScope:
    """What of the switches the settings give us."""
    return BridgeScope(
        settings.rundir,
        names=frozenset(settings.bridges),
        pipeline=pipeline_of(settings),
        speeds=settings.ports,
        best_effort=settings.enforcement == "best-effort",
        adopt=frozenset(settings.adopt),
        police=settings.police,
        conjunction=settings.conjunction,
        hiding=settings.hiding,
        paths=settings.network.placement == "paths",
        routes=settings.network.paths if settings.network.flood_tree else 0,
    )


def discovery_of(settings: Settings) -> DiscoverySettings:
    """How the network is learned."""
    topology = settings.topology
    return DiscoverySettings(
        rundir=settings.rundir,
        pipeline=pipeline_of(settings),
        bridges=frozenset(settings.bridges),
        lldp=topology.lldp,
        snoop=topology.snoop,
        interval=topology.interval,
        key=topology.secret.encode(),
        host=topology.name or socket.gethostname().replace("/", "_")[:200],
        speeds=settings.ports,
        hosts=settings.hosts,
        links=settings.links,
    )


def links_seen_after(settings: Settings) -> float:
    """Seconds in which each link that is there is seen, though two of its probes are lost."""
    return 3.5 * settings.topology.interval


def network_limits(settings: Settings) -> HostLimits:
    """How long hosts and links count that nothing is heard of: three probes may be lost before a link is."""
    return HostLimits(host_age=1000 * settings.topology.host_age, link_age=int(1000 * links_seen_after(settings)))
