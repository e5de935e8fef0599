"""Static flows and addresses: what the tests of a lab without agents need."""

from __future__ import annotations

from flowloom.lab import host
from flowloom.lab.cloud import Lab


def wire(lab: Lab, number: int) -> None:
    """Everything of vm<number> goes to the other host, and the other way round."""
    at, vm = lab.host(f"h{number}"), lab.vm(f"vm{number}")
    port = host.vsctl(at, "get", "interface", vm.interface, "ofport").strip()
    other = lab.layout.host(3 - number).tunnel_ip
    host.ofctl(at, "add-flow", f"in_port={port},actions=set_field:7->tun_id,set_field:{other}->tun_dst,output:10")
    host.ofctl(at, "add-flow", f"in_port=10,tun_id=7,actions=output:{port}")


def address(lab: Lab, number: int) -> str:
    """Give vm<number> an address by hand."""
    ip = f"10.0.0.{number}"
    assert lab.exec(f"vm{number}", ["ip", "address", "add", f"{ip}/24", "dev", "eth0"]).returncode == 0
    return ip
