"""Flows that answer by themselves, shared by the apps that know what to answer."""

from __future__ import annotations

from typing import Final

from flowloom.apps.addresses import ETH_ARP
from flowloom.compiler.unit import Yielded
from flowloom.openflow.actions import PORT_IN, output
from flowloom.pipeline.layout import (
    ARP_OP,
    ARP_SHA,
    ARP_SPA,
    ARP_THA,
    ARP_TPA,
    ETH_DST,
    ETH_SRC,
    ETH_TYPE,
    NETWORK,
    SERVICE,
    Priority,
)

_REQUEST: Final = (ETH_TYPE.eq(ETH_ARP), ARP_OP.eq(1))
_TO_THE_ASKER: Final = ETH_SRC.copy_to(ETH_DST)
_AS_A_REPLY: Final = ARP_OP.load(2) + ARP_SHA.copy_to(ARP_THA) + ARP_SPA.copy_to(ARP_TPA)
_BACK: Final = output(PORT_IN)


def arp_reply(network_key: int, address: int, mac: int) -> Yielded:
    """Whoever in the network asks for the IPv4 `address` is told `mac`, out of the port that asked."""
    return SERVICE.flow(
        NETWORK.eq(network_key),
        *_REQUEST,
        ARP_TPA.eq(address),
        then=(_TO_THE_ASKER, ETH_SRC.load(mac), _AS_A_REPLY, ARP_SHA.load(mac), ARP_SPA.load(address), _BACK),
        priority=Priority.ANSWER,
    )
