"""Numbers for Prometheus, on a loopback port of each process.

A process declares what it exports (`Metric`) and gives a function that says the numbers as they are now; it is
called at each scrape, so that counting costs nothing in between.  What listens is never reachable from another
machine: a scraper or a proxy of this host asks.  The client library is needed only where a port is configured.
"""

from __future__ import annotations

import importlib
import ipaddress
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from flowloom.kernel.errors import FlowloomError, Misconfigured

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Metric:
    """One exported number, or one for each value of `label`.

    name: `flowloom_<part>_<what>_<unit>`, of counters with `_total` at its end.  A counter begins at 0 with its process.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    label: str = ""


Samples = Mapping[str, float | Mapping[str, float]]
"""Name of a metric -> its number, or label value -> number.  A metric that is left out is not known at the moment."""


class Address(NamedTuple):
    """Where one process serves its numbers."""

    host: str
    port: int

    def plus(self, number: int) -> Address:
        """The address of the process that counts so many above this one."""
        return Address(self.host, self.port + number)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address(setting: str, text: str, above: int = 0) -> Address | None:
    """`127.0.0.1:9740` or `[::1]:9740`; None for "".  Misconfigured, naming `setting`, for what is not a loopback.

    above: so many ports above it are to exist too.
    """
    if not text:
        return None
    host, _, number = text.rpartition(":")
    try:
        found = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        port = int(number)
    except ValueError as error:
        raise Misconfigured(setting, f"{text!r} is not of the form 127.0.0.1:PORT or [::1]:PORT") from error
    if not found.is_loopback:
        raise Misconfigured(setting, f"{found} is no loopback address; let a scraper or proxy of this host ask")
    if not 1 <= port <= 65535 - above:
        raise Misconfigured(setting, f"{port} is not a port from 1 to {65535 - above}")
    return Address(str(found), port)


class Server:
    """Serves until closed."""

    def __init__(self, close: Callable[[], None]) -> None:
        self.close = close


def serve(setting: str, where: Address, part: str, metrics: Sequence[Metric], samples: Callable[[], Samples]) -> Server:
    """Answer scrapes of `where` (`GET /metrics`) from threads of their own.

    samples: called at each scrape, in a thread of the scrape's; what it raises as a FlowloomError becomes
    `flowloom_<part>_answers 0`, and the other numbers are left out.
    Misconfigured, naming `setting`, when the port is taken or the client library is not there.
    """
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
    except ModuleNotFoundError as error:
        why = f"this needs the Python module {error.name}; install it with pip install 'flowloom[metrics]'"
        raise Misconfigured(setting, why) from error
    registry = CollectorRegistry()
    registry.register(_Collector(part, metrics, samples))
    ProcessCollector(registry=registry)
    try:
        server, thread = start_http_server(where.port, where.host, registry)
    except OSError as error:
        raise Misconfigured(setting, f"cannot listen at {where}: {error.strerror}") from error
    return Server(lambda: _stop(server, thread))


def _stop(server: Any, thread: threading.Thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join()


class _Collector:
    """What `prometheus_client` asks at each scrape."""

    def __init__(self, part: str, metrics: Sequence[Metric], samples: Callable[[], Samples]) -> None:
        self._answers = answers_of(part)
        self._metrics = metrics
        self._samples = samples

    def describe(self) -> Iterator[Any]:
        """Nothing: what is not asked for at registration needs no process that answers already."""
        return iter(())

    def collect(self) -> Iterator[Any]:
        """Every known number."""
        try:
            samples = self._samples()
        except FlowloomError as error:
            LOG.warning("No numbers for a scrape: %s", error)
            yield _family(self._answers, 0.0)
            return
        yield _family(self._answers, 1.0)
        for metric in self._metrics:
            if metric.name in samples:
                yield _family(metric, samples[metric.name])


def answers_of(part: str) -> Metric:
    """The metric that every part has."""
    return Metric(f"flowloom_{part}_answers", "gauge", "1 when the process could say its numbers, else 0.")


def _family(metric: Metric, value: float | Mapping[str, float]) -> Any:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    made: Any = family(metric.name, metric.help, labels=[metric.label] if metric.label else None)
    if isinstance(value, Mapping):
        for name, number in value.items():
            made.add_metric([str(name)], number)
    else:
        made.add_metric([], value)
    return made


def worker_number() -> int | None:
    """Which of uwsgi's workers this process is, from 1; None in a process that is none."""
    try:
        uwsgi = importlib.import_module("uwsgi")  # Which is there only inside it.
    except ImportError:
        return None
    return int(uwsgi.worker_id()) or None


def document(metrics: Sequence[Metric]) -> str:
    """A table for the documentation."""
    rows = [f"| `{one.name}`{f' by `{one.label}`' if one.label else ''} | {one.kind} | {one.help} |" for one in metrics]
    return "\n".join(["| metric | kind | meaning |", "|---|---|---|", *rows]) + "\n"
