"""The script that a VM's DHCP client calls inside the VM's namespace: `hook.py udhcpc|dhclient VM_DIR RESOLV_CONF [EVENT]`.

It applies what the client was given (address, MTU, routes, resolv.conf) and leaves it in VM_DIR: `lease.json` holds the
present lease, `events.jsonl` one line for everything that happened.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from flowloom.lab.lease import Lease, from_dhclient, from_udhcpc

_BOUND = frozenset({"bound", "renew", "rebind", "reboot"})
_UNBOUND = frozenset({"deconfig", "expire", "fail", "release", "stop", "preinit"})


def main(argv: list[str], variables: Mapping[str, str]) -> int:
    """One event of a client.  Exit code 0: done; the client takes anything else for a failure."""
    client, directory, resolv_conf = argv[0], Path(argv[1]), Path(argv[2])
    event = (variables.get("reason", "") if client == "dhclient" else argv[3]).lower()
    interface = variables["interface"]
    lease = None
    if event in _BOUND:
        lease = from_dhclient(variables) if client == "dhclient" else from_udhcpc(variables)
        _apply(lease, interface, resolv_conf)
    elif event in _UNBOUND:
        _ip("link", "set", interface, "up")
        _ip("-4", "address", "flush", "dev", interface)
        resolv_conf.write_text("")
        (directory / "lease.json").unlink(missing_ok=True)
    _record(directory, client, event, lease, variables.get("message", ""))
    return 0


def _apply(lease: Lease, interface: str, resolv_conf: Path) -> None:
    present = _ip("-4", "-o", "address", "show", "dev", interface).split()
    if lease.interface not in present:
        _ip("-4", "address", "flush", "dev", interface)
    if lease.mtu:
        _ip("link", "set", interface, "mtu", str(lease.mtu))
    _ip("address", "replace", lease.interface, "dev", interface)
    for prefix, gateway in lease.effective_routes:
        via = [] if gateway == "0.0.0.0" else ["via", gateway, "onlink"]
        _ip("route", "replace", prefix, *via, "dev", interface)
    lines = [f"search {lease.domain}"] if lease.domain else []
    lines += [f"nameserver {address}" for address in lease.dns]
    # Written in place: `ip netns exec` has bound this very file over the VM's /etc/resolv.conf.
    resolv_conf.write_text("".join(f"{line}\n" for line in lines))


def _record(directory: Path, client: str, event: str, lease: Lease | None, message: str) -> None:
    given = asdict(lease) if lease else None
    line = json.dumps({"at": time.time(), "client": client, "event": event, "lease": given, "message": message})
    with (directory / "events.jsonl").open("a") as events:
        events.write(line + "\n")
    if given:
        new = directory / "lease.json.new"
        new.write_text(json.dumps(given))
        new.replace(directory / "lease.json")


def _ip(*argv: str) -> str:
    done = subprocess.run(["ip", *argv], check=True, capture_output=True, text=True)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
