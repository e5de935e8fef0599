"""The `flowloom` command: what it can be asked, and how it ends.

Exit codes, for every sub-command: 0 as it should be; 1 not so (something is down, behind or different);
2 a wrong command line or setting, named in one sentence; 3 what was asked did not answer; 4 no such object.

Each side of Flowloom is imported only when a command needs it: a compute node has no Neutron, a Neutron
server has no Open vSwitch, and `status` starts before either is loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import TypeAlias

from flowloom.cli import store as store_verbs
from flowloom.kernel.errors import FlowloomError, Misconfigured

OK = 0
NOT_SO = 1
MISUSED = 2
NO_ANSWER = 3
NO_SUCH = 4

LIMIT_MAX = 1000

Parsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""Where a side adds its own sub-command: `parser.set_defaults(run=f)` with `f(namespace) -> exit code`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: this process's own); the exit code.

    argparse itself ends a wrong command line with SystemExit(2).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = command_line(with_lab="lab" in words).parse_args(words)
        run: Callable[[argparse.Namespace], int] = arguments.run
        code = run(arguments)
        sys.stdout.flush()
        return code
    except Misconfigured as error:
        return _say(error, MISUSED)
    except FlowloomError as error:
        return _say(error, NO_ANSWER)
    except BrokenPipeError:
        # The reader has what it wanted (`flowloom flows | head`).  Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def command_line(with_lab: bool = True) -> argparse.ArgumentParser:
    """The parser of every sub-command.  with_lab: load the lab's own verbs too, which costs an import."""
    parser = argparse.ArgumentParser(
        prog="flowloom", description="A distributed SDN control plane, from its command line."
    )
    parser.add_argument("--config", metavar="FILE", dest="deployment", help="flowloom.toml of the deployment to ask")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _people(commands)
    _processes(commands)
    _lab(commands, with_lab)
    _demo(commands)
    return parser


def _people(commands: Parsers) -> None:
    """The commands that ask a running deployment."""
    status = _asks(commands, "status", "each layer: is it up, how much is undone, since when", _status)
    status.add_argument("--timeout", type=float, default=3.0, metavar="SECONDS", help="wait for each layer (default 3)")

    port = commands.add_parser("port", help="where a port stands")
    verbs = port.add_subparsers(dest="verb", metavar="VERB", required=True)
    show = _asks(verbs, "show", "the way of a port from Neutron to its switch, and why it is not ACTIVE", _port_show)
    show.add_argument("id", metavar="ID", help="id of the Neutron port")

    flows = _asks(commands, "flows", "the flows that the agents have made", _flows)
    flows.add_argument("--host", help="of this host alone")
    flows.add_argument("--table", help="of this table alone, by name")
    flows.add_argument("--explain", action="store_true", help="the app, rule, records and versions behind each")

    compile = _asks(commands, "compile", "compare what an agent has with what it should have", _compile)
    compile.add_argument("--full", action="store_true", required=True, help="recompute every flow from the records")
    compile.add_argument("--check", action="store_true", required=True, help="compare only; change nothing")
    compile.add_argument("--host", help="of this host alone")

    _consistency(commands)

    _asks(commands, "version", "this release", _version)


def _consistency(commands: Parsers) -> None:
    """The commands that compare the copies, and make them equal."""
    drift = _asks(commands, "drift", "compare Neutron, store, agents and switches now, layer by layer", _drift)
    drift.add_argument(
        "--limit", type=_limit, default=20, metavar="N", help="differences to show of each layer (default 20)"
    )

    repair = _asks(commands, "repair", "make the store what Neutron says, online", _repair)
    repair.add_argument("--dry-run", action="store_true", help="say what would be repaired; change nothing")
    repair.add_argument("--project", metavar="P", help="of this project alone")
    repair.add_argument("--object", metavar="ID", help="this object alone, by its id")
    repair.add_argument("--approve", metavar="GUARD-ID", help="let a repair pass that a guard holds")
    repair.add_argument("--rate", type=float, metavar="N", help="at most so many objects a second")

    audit = _asks(commands, "audit", "what was repaired, by whom and why", _audit)
    audit.add_argument("--object", metavar="ID", help="of this object alone, by its id")
    audit.add_argument("--project", metavar="P", help="of this project alone")
    audit.add_argument("--limit", type=_limit, default=50, metavar="N", help="the newest so many (default 50)")
    audit.add_argument("--guards", action="store_true", help="repairs that are held instead, and how to let them pass")

    store = commands.add_parser("store", help="the northbound store as a whole")
    verbs = store.add_subparsers(dest="verb", metavar="VERB", required=True)
    store_verbs.register(verbs)
    move = _asks(verbs, "move", "change the database under a running cloud, without a lost change or packet", _move)
    move.add_argument("--from", metavar="URL", dest="source", default="", help="the store in force")
    move.add_argument("--to", metavar="URL", dest="target", default="", help="an empty one; no password in it")
    move.add_argument("--lost", action="store_true", help="the store in force is lost: begin anew with an empty one")
    move.add_argument("--abort", action="store_true", help="go back, as long as the target is not in force")
    move.add_argument("--status", action="store_true", help="how far the move is, and which store is in force")
    _asks(verbs, "rebuild", "bring an empty or old store up to date from Neutron, while everything runs", _rebuild)


def _processes(commands: Parsers) -> None:
    """The commands that are a process of a deployment."""
    agent = commands.add_parser("agent", help="run the agent of this host")
    agent.add_argument("--config", required=True, metavar="FILE", dest="file", help="agent.toml")
    agent.set_defaults(run=_agent)

    bus = commands.add_parser("bus", help="run the forwarder of the ZeroMQ bus")
    bus.add_argument("--url", required=True, help="zmq+ipc:///directory or zmq+tcp://address:port")
    bus.set_defaults(run=_bus)

    recovery = commands.add_parser("recovery", help="run the process that finishes what Neutron left undone")
    recovery.add_argument(
        "--config-file", required=True, action="append", metavar="FILE", dest="files", help="neutron.conf; repeatable"
    )
    recovery.set_defaults(run=_recovery)


def _lab(commands: Parsers, load: bool) -> None:
    """The commands of the lab; when not asked for, only their names."""
    if load:
        with _needs("lab", "lab"):
            from flowloom.lab.commands import register
        register(commands)
    else:
        commands.add_parser("lab", help="a cloud on this machine, out of real parts")


def _demo(commands: Parsers) -> None:
    demo = commands.add_parser("demo", help="build a cloud, show its job and its faults, take it down again")
    demo.add_argument("--dir", default="/run/flowloom-demo", help="of the lab it builds (default /run/flowloom-demo)")
    demo.add_argument("--keep", action="store_true", help="leave the lab up, and say how to play with it")
    demo.add_argument("--json", action="store_true", help="for machines")
    demo.set_defaults(run=_run_demo)


def _asks(commands: Parsers, name: str, help: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    # The same option before the command stays in force where it is not repeated behind it.
    parser.add_argument("--config", metavar="FILE", dest="deployment", default=argparse.SUPPRESS, help="flowloom.toml")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(run=run)
    return parser


def _limit(text: str) -> int:
    """A number of things to show, as many as a recovery process gives at once."""
    number = int(text)
    if not 1 <= number <= LIMIT_MAX:
        raise argparse.ArgumentTypeError(f"{number} is not between 1 and {LIMIT_MAX}")
    return number


def _status(arguments: argparse.Namespace) -> int:
    from flowloom.cli import status

    return status.run(arguments)


def _port_show(arguments: argparse.Namespace) -> int:
    from flowloom.cli import port

    return port.run(arguments)


def _flows(arguments: argparse.Namespace) -> int:
    from flowloom.cli import flows

    return flows.run(arguments)


def _compile(arguments: argparse.Namespace) -> int:
    from flowloom.cli import flows

    return flows.run_check(arguments)


def _drift(arguments: argparse.Namespace) -> int:
    from flowloom.cli import drift

    return drift.run(arguments)


def _repair(arguments: argparse.Namespace) -> int:
    from flowloom.cli import repair

    return repair.run(arguments)


def _rebuild(arguments: argparse.Namespace) -> int:
    from flowloom.cli import repair

    return repair.run_rebuild(arguments)


def _move(arguments: argparse.Namespace) -> int:
    from flowloom.cli import move

    return move.run(arguments)


def _audit(arguments: argparse.Namespace) -> int:
    from flowloom.cli import audit

    return audit.run(arguments)


def _run_demo(arguments: argparse.Namespace) -> int:
    with _needs("demo", "lab"):
        from flowloom.cli import demo

        return demo.run(arguments)


def _version(arguments: argparse.Namespace) -> int:
    release = version("flowloom")
    print(f'{{"version": "{release}"}}' if arguments.json else f"flowloom {release}")
    return OK


def _agent(arguments: argparse.Namespace) -> int:
    with _needs("agent", "openvswitch"):
        from flowloom.agent.main import run
    return run(arguments.file)


def _bus(arguments: argparse.Namespace) -> int:
    with _needs("bus", "zeromq"):
        from flowloom.drivers.bus.zeromq import run_forwarder
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run_forwarder(arguments.url, stop)
    return OK


def _recovery(arguments: argparse.Namespace) -> int:
    with _needs("recovery", "neutron"):
        from flowloom.neutron.recovery import run
    return run(arguments.files)


@contextlib.contextmanager
def _needs(command: str, extra: str) -> Iterator[None]:
    """Name the extra to install when a library of somebody else's is missing; a hole of our own is a bug."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "flowloom":
            raise
        why = f"this needs the Python module {error.name}; install it with pip install 'flowloom[{extra}]'"
        raise Misconfigured(command, why) from error


def _say(error: Exception, code: int) -> int:
    print(f"flowloom: {error}", file=sys.stderr)
    return code
