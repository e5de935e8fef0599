"""The port that Prometheus scrapes: what it says, and where it may be."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import pytest

from flowloom.kernel.errors import Misconfigured, Unavailable
from flowloom.lab.ports import free_port
from flowloom.metrics import Address, Metric, Samples, address, document, serve, worker_number

METRICS = (
    Metric("flowloom_test_things", "gauge", "Things that there are."),
    Metric("flowloom_test_deeds_total", "counter", "Things done, by kind.", "kind"),
    Metric("flowloom_test_unknown_seconds", "gauge", "Not known now."),
)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def served(stack: ExitStack, samples: Callable[[], Samples]) -> str:
    where = Address("127.0.0.1", free_port())
    stack.callback(serve("metrics", where, "test", METRICS, samples).close)
    return f"http://{where}/metrics"


def scrape(url: str) -> Mapping[str, float]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_numbers_are_asked_for_at_each_scrape(stack: ExitStack) -> None:
    numbers = iter([3.0, 4.0])
    url = served(stack, lambda: {"flowloom_test_things": next(numbers), "flowloom_test_deeds_total": {"a": 1, "b": 2}})
    first = scrape(url)
    assert first["flowloom_test_things"] == 3.0
    assert first['flowloom_test_deeds_total{kind="b"}'] == 2.0
    assert first["flowloom_test_answers"] == 1.0
    assert first["process_resident_memory_bytes"] > 1e6
    assert not any("unknown" in name for name in first)
    assert scrape(url)["flowloom_test_things"] == 4.0


def test_help_and_kind_are_told(stack: ExitStack) -> None:
    url = served(stack, lambda: {"flowloom_test_things": 1.0})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
        text = answer.read().decode()
    assert "# HELP flowloom_test_things Things that there are.\n# TYPE flowloom_test_things gauge\n" in text


def test_process_that_cannot_say_its_numbers_says_that(stack: ExitStack) -> None:
    def silent() -> Samples:
        raise Unavailable("the database does not answer")

    told = scrape(served(stack, silent))
    assert told["flowloom_test_answers"] == 0.0
    assert "flowloom_test_things" not in told


def test_closed_port_answers_nothing_and_is_free_again(stack: ExitStack) -> None:
    where = Address("127.0.0.1", free_port())
    for _ in range(2):
        serve("metrics", where, "test", METRICS, dict).close()
    with pytest.raises(urllib.error.URLError):
        scrape(f"http://{where}/metrics")


def test_port_that_is_taken_is_named(stack: ExitStack) -> None:
    where = Address("127.0.0.1", free_port())
    stack.callback(serve("metrics", where, "test", METRICS, dict).close)
    with pytest.raises(Misconfigured, match=rf"metrics: cannot listen at {where}: Address already in use"):
        serve("metrics", where, "test", METRICS, dict)


@pytest.mark.parametrize("text", ["127.0.0.1:9740", "127.9.8.7:1", "[::1]:9740"])
def test_loopback_addresses(text: str) -> None:
    assert str(address("metrics", text)) == text


def test_no_address_is_none() -> None:
    assert address("metrics", "") is None


@pytest.mark.parametrize("text", ["0.0.0.0:9740", "192.0.2.1:9740", "[::]:9740", "[2001:db8::1]:9740"])
def test_address_that_others_reach_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured, match=r"metrics: .* is no loopback address"):
        address("metrics", text)


@pytest.mark.parametrize(
    "text", ["9740", "localhost:9740", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:0", "127.0.0.1:65536"]
)
def test_what_is_no_address_and_port_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured, match="metrics: "):
        address("metrics", text)


def test_ports_of_workers_must_exist_too() -> None:
    assert address("m", "127.0.0.1:65500", above=35)
    with pytest.raises(Misconfigured, match="65501 is not a port from 1 to 65500"):
        address("m", "127.0.0.1:65501", above=35)


def test_missing_library_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from flowloom.metrics import Address, serve\n"
        "serve('metrics', Address('127.0.0.1', 1), 'test', (), dict)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "pip install 'flowloom[metrics]'" in ended.stderr


def test_library_is_not_loaded_where_no_port_is_configured() -> None:
    code = "import sys, flowloom.metrics, flowloom.agent.metrics; print('prometheus_client' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout == "False\n"


def test_outside_uwsgi_nobody_is_a_worker() -> None:
    assert worker_number() is None


def test_documentation_is_a_table() -> None:
    assert document(METRICS[1:2]) == (
        "| metric | kind | meaning |\n|---|---|---|\n"
        "| `flowloom_test_deeds_total` by `kind` | counter | Things done, by kind. |\n"
    )
