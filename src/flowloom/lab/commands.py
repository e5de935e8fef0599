"""`flowloom lab`: the verbs, each a thin word for a method of `Lab`.

Exit codes as everywhere: 0 done, or all is up; 1 it failed, or something is not up; 2 a wrong setting; 4 no such thing.
`lab exec` ends with the code of its command.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TypeAlias

from flowloom.lab.cloud import Lab
from flowloom.lab.errors import LabFailed, NoSuch
from flowloom.lab.layout import CLOUD, DEFAULT_DIR
from flowloom.lab.status import Status
from flowloom.lab.stores import forms

OK, NOT_SO, NO_SUCH = 0, 1, 4

_STORES = ", ".join((forms.EMBEDDED, *forms.FORMS))

Parsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Verb: TypeAlias = Callable[[Lab, argparse.Namespace], int]

_WHAT = "api, recovery, recovery@2, bus, store, store@1, sentinel@1, agent@h1, switch@h1, ovsdb@h1, relay@h1 or link@h1"


def register(commands: Parsers) -> None:
    """Mount `lab` and its verbs; each sets `run`, a function of the parsed arguments that returns an exit code."""
    lab = commands.add_parser("lab", help="a cloud on this machine, out of real parts")
    verbs = lab.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_up(verbs)
    _verb(verbs, "down", _down, "end and remove everything, also after a crash")
    status = _verb(verbs, "status", _status, "every part: up, down, paused or cut")
    status.add_argument("--json", action="store_true", help="for machines")
    _add_vm(verbs)
    run = _verb(verbs, "exec", _exec, "run a command in a VM or host: exec NAME -- COMMAND")
    run.add_argument("name", metavar="NAME")
    run.add_argument("argv", metavar="COMMAND", nargs=argparse.REMAINDER)
    for name, verb, help in (
        ("kill", _kill, "SIGKILL a part"),
        ("pause", _pause, "SIGSTOP a part"),
        ("cut", _cut, "cut the store or a link off"),
        ("start", _start, "undo kill, pause or cut"),
    ):
        _verb(verbs, name, verb, help).add_argument("what", metavar="WHAT", help=_WHAT)
    _add_store(verbs)


def _add_up(verbs: Parsers) -> None:
    up = _verb(verbs, "up", _up, "build the cloud")
    up.add_argument("--hosts", type=int, default=2, metavar="N", help="number of hosts (default 2)")
    up.add_argument("--sql", default="", metavar="URL", help="Neutron's database (default: SQLite in DIR)")
    up.add_argument(
        "--store",
        default="",
        metavar="STORE",
        help=f"northbound store: {_STORES}, or a URL of one that runs (default sqlite)",
    )
    up.add_argument("--bus", default=None, metavar="URL", help='bus (default: ZeroMQ in DIR; "": none)')
    up.add_argument(
        "--api-port", type=int, default=0, metavar="PORT", help="Neutron's port on 127.0.0.1 (default: a free one)"
    )
    up.add_argument("--recoveries", type=int, default=1, metavar="N", help="recovery processes (default 1)")
    up.add_argument("--bare", action="store_true", help="hosts and switches alone: no agents, no Neutron")


def _add_store(verbs: Parsers) -> None:
    store = verbs.add_parser("store", help="stop, start, wipe, save or restore the lab's own store")
    deeds = store.add_subparsers(dest="deed", metavar="stop|start|wipe|save|restore", required=True)
    _verb(deeds, "stop", _store_stop, "end its servers in good order; cut an embedded one off")
    _verb(deeds, "start", _store_start, "start what does not run, undo stop, kill and pause")
    _verb(deeds, "wipe", _store_wipe, "throw away all it holds; it runs on, empty")
    save = _verb(deeds, "save", _store_save, "keep a copy of what it holds; its servers are stopped for it")
    restore = _verb(deeds, "restore", _store_restore, "put a copy in place of what it holds")
    for verb in (save, restore):
        verb.add_argument("name", metavar="NAME", help="of the copy")


def _add_vm(verbs: Parsers) -> None:
    vm = verbs.add_parser("vm", help="add or remove a VM")
    deeds = vm.add_subparsers(dest="deed", metavar="add|rm", required=True)
    add = _verb(deeds, "add", _vm_add, "make a VM and plug it in")
    add.add_argument("name", metavar="NAME")
    add.add_argument("--host", required=True, metavar="H", help="h1, h2, ...")
    add.add_argument("--port", required=True, metavar="PORT_ID", help="id of its Neutron port")
    add.add_argument("--dhcp", choices=("udhcpc", "dhclient"), help="start this client in it and wait for the address")
    remove = _verb(deeds, "rm", _vm_rm, "unplug and remove a VM")
    remove.add_argument("name", metavar="NAME")


def _verb(parsers: Parsers, name: str, verb: Verb, help: str) -> argparse.ArgumentParser:
    parser = parsers.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    parser.add_argument("--dir", default=str(DEFAULT_DIR), help=f"of the lab (default {DEFAULT_DIR})")
    parser.set_defaults(run=lambda arguments: _run(verb, arguments))
    return parser


def _run(verb: Verb, arguments: argparse.Namespace) -> int:
    try:
        return verb(Lab(arguments.dir), arguments)
    except LabFailed as error:
        print(f"flowloom lab: {error}", file=sys.stderr)
        return NO_SUCH if isinstance(error, NoSuch) else NOT_SO


def _up(lab: Lab, arguments: argparse.Namespace) -> int:
    built = lab.up(
        hosts=arguments.hosts,
        sql=arguments.sql,
        store=arguments.store,
        bus=arguments.bus,
        bare=arguments.bare,
        api_port=arguments.api_port,
        recoveries=arguments.recoveries,
        progress=lambda line: print(line, flush=True),
    )
    if not built:
        print(f"the lab in {lab.layout.dir} is up already")
    if not arguments.bare:
        print(f"try: OS_CLIENT_CONFIG_FILE={lab.clouds_file} OS_CLOUD={CLOUD} openstack network list")
    return OK


def _down(lab: Lab, arguments: argparse.Namespace) -> int:
    found = lab.down()
    print(f"the lab in {lab.layout.dir} is gone" if found else f"there was no lab in {lab.layout.dir}")
    return OK


def _status(lab: Lab, arguments: argparse.Namespace) -> int:
    status = lab.status()
    if arguments.json:
        print(json.dumps(asdict(status) | {"whole": status.whole}))
    else:
        print("\n".join(_table(status)))
    return OK if status.whole else NOT_SO


def _table(status: Status) -> list[str]:
    lines = [
        f"lab {status.dir}, up for {status.age_seconds:.0f} s" + (f", Neutron at {status.api}" if status.api else "")
    ]
    lines.append(f"{'PART':<14} {'STATE':<7} {'PID':>7} {'AGE':>9}")
    for part in status.parts:
        age = "-" if part.age_seconds is None else f"{part.age_seconds:.0f} s"
        lines.append(f"{part.name:<14} {part.state:<7} {part.pid or '-':>7} {age:>9}")
    if status.vms:
        lines.append(f"{'VM':<14} {'STATE':<7} {'HOST':<5} {'MAC':<17} PORT")
    for vm in status.vms:
        lines.append(f"{vm.name:<14} {vm.state:<7} {vm.host:<5} {vm.mac:<17} {vm.port_id}")
    return lines


def _vm_add(lab: Lab, arguments: argparse.Namespace) -> int:
    vm = lab.vm_add(arguments.name, arguments.host, arguments.port)
    print(f"VM {vm.name} on {vm.host}: MAC {vm.mac}, MTU {vm.mtu}")
    if arguments.dhcp:
        lease = lab.dhcp(arguments.name, arguments.dhcp)
        print(f"VM {vm.name}: {lease.interface} from {lease.server}, for {lease.lease_seconds} s")
    return OK


def _vm_rm(lab: Lab, arguments: argparse.Namespace) -> int:
    lab.vm_rm(arguments.name)
    return OK


def _exec(lab: Lab, arguments: argparse.Namespace) -> int:
    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    command = lab.command(arguments.name, argv or ["sh"])
    code = subprocess.run(command, check=False).returncode
    return code if code >= 0 else 128 - code


def _kill(lab: Lab, arguments: argparse.Namespace) -> int:
    lab.kill(arguments.what)
    return OK


def _pause(lab: Lab, arguments: argparse.Namespace) -> int:
    lab.pause(arguments.what)
    return OK


def _cut(lab: Lab, arguments: argparse.Namespace) -> int:
    lab.cut(arguments.what)
    return OK


def _start(lab: Lab, arguments: argparse.Namespace) -> int:
    lab.start(arguments.what)
    return OK


def _store_stop(lab: Lab, arguments: argparse.Namespace) -> int:
    lab.store_stop()
    return OK


def _store_start(lab: Lab, arguments: argparse.Namespace) -> int:
    lab.start("store")
    return OK


def _store_wipe(lab: Lab, arguments: argparse.Namespace) -> int:
    lab.store_wipe()
    return OK


def _store_save(lab: Lab, arguments: argparse.Namespace) -> int:
    lab.store_save(arguments.name)
    return OK


def _store_restore(lab: Lab, arguments: argparse.Namespace) -> int:
    lab.store_restore(arguments.name)
    return OK
