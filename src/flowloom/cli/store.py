"""`flowloom store check`: may this database be trusted?  What a driver declares, and what it keeps.

Exit code: 0 everything that could be tried is kept; 1 something is broken; 2 a wrong URL or setting; 3 the database
does not answer.
"""

from __future__ import annotations

import argparse
import sys
from urllib.parse import urlsplit

from flowloom.kernel.errors import Misconfigured

OK, NOT_SO = 0, 1
OBJECTS = 5000


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of this module to `flowloom store`."""
    help = "run the conformance suite against a live database, and measure it"
    parser = verbs.add_parser("check", help=help, description=help[0].upper() + help[1:] + ".")
    parser.add_argument("url", metavar="URL", help="as in the setting `store`, e.g. etcd://h1:2379,h2:2379/flowloom")
    parser.add_argument(
        "--objects",
        type=int,
        default=OBJECTS,
        metavar="N",
        help=f"so many of 500 bytes for the rates (default {OBJECTS})",
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check and show; progress goes to standard error."""
    from flowloom.cli import store_check
    from flowloom.cli.table import clean, emit, say
    from flowloom.northbound.plugins import open_store

    if arguments.objects < 1:
        raise Misconfigured("--objects", "it is a number of objects, at least 1")

    def progress(line: str) -> None:
        print(clean(line), file=sys.stderr, flush=True)

    report = store_check.check(lambda: open_store(arguments.url), shown(arguments.url), arguments.objects, progress)
    if arguments.json:
        emit(report)
    else:
        say(store_check.show(report))
    return NOT_SO if report.broken else OK


def shown(url: str) -> str:
    """`url` without user, password and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
