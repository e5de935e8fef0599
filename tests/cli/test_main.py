"""The command itself: how it starts and how it ends, as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer  # by name: see below
from pathlib import Path

import pytest

CONFIG = """
deployment = "lab"
store = "sqlite:///{dir}/none/northbound.sqlite"
[agents]
h1 = "{dir}/agent.sock"
"""


def flowloom(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "FLOWLOOM_CONFIG"}
    return subprocess.run(
        [sys.executable, "-m", "flowloom", *words],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "flowloom.toml"
    path.write_text(CONFIG.format(dir=tmp_path))
    return str(path)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[list[bytes]]:
    """Answers every question with what the list holds under it."""
    said: list[bytes] = []
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(tmp_path / "agent.sock"))
    listening.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.makefile("rb").readline()
                connection.sendall(said[0] + b"\n")

    threading.Thread(target=serve, daemon=True).start()
    yield said
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def test_version() -> None:
    assert flowloom("version").stdout.startswith("flowloom ")


@pytest.mark.parametrize(
    "words",
    [(), ("fly",), ("port",), ("port", "show"), ("agent",), ("compile", "--full"), ("status", "--timeout", "x")],
)
def test_wrong_command_line_is_2(words: tuple[str, ...]) -> None:
    ended = flowloom(*words)
    assert ended.returncode == 2
    assert ended.stderr.startswith("usage: flowloom")


@pytest.mark.parametrize("words", [("status",), ("flows",), ("compile", "--full", "--check"), ("port", "show", "x")])
def test_wrong_setting_is_one_sentence_and_2(words: tuple[str, ...], tmp_path: Path) -> None:
    ended = flowloom("--config", str(tmp_path / "gone"), *words)
    assert ended.returncode == 2
    assert ended.stderr == f"flowloom: --config: {tmp_path}/gone cannot be read: No such file or directory\n"


def test_config_may_stand_before_or_behind_the_command(config: str, agent: list[bytes]) -> None:
    agent.append(b'{"flows":[]}')
    assert flowloom("--config", config, "flows").stdout.startswith("h1: 0 flows\n")
    assert flowloom("flows", "--config", config).stdout.startswith("h1: 0 flows\n")


def test_no_answer_is_one_sentence_and_3(config: str, tmp_path: Path) -> None:
    ended = flowloom("--config", config, "flows")
    assert ended.returncode == 3
    assert ended.stderr == f"flowloom: {tmp_path}/agent.sock does not exist: the process is not running\n"


def test_host_that_is_not_listed_is_2(config: str) -> None:
    ended = flowloom("--config", config, "flows", "--host", "h7")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("flowloom: --host: ")


def test_equal_flows_are_0_and_different_ones_1(config: str, agent: list[bytes]) -> None:
    agent.append(b'{"equal":true,"flows":3}')
    assert flowloom("--config", config, "compile", "--full", "--check").returncode == 0
    agent[0] = b'{"equal":false,"flows":3,"differences":[{"flow":"LOOKUP any","oracle":"drop"}]}'
    ended = flowloom("--config", config, "compile", "--full", "--check")
    assert ended.returncode == 1
    assert "h1: LOOKUP any\n    full recompute: drop\n    agent: not there\n" in ended.stdout


def test_flows_of_one_table(config: str, agent: list[bytes]) -> None:
    agent.append(b'{"flows":[{"table":"LOOKUP","match":"a=1"},{"table":"FLOOD","match":"b=1"}]}')
    shown = flowloom("--config", config, "flows", "--table", "lookup").stdout
    assert "a=1" in shown
    assert "b=1" not in shown


@contextmanager
def asking(config: str, tmp_path: Path, **pipes: int) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """`flowloom flows` at the moment at which it waits for the agent's answer, and the agent's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "agent.sock"))
        listening.listen()
        listening.settimeout(30)
        command = subprocess.Popen([sys.executable, "-m", "flowloom", "--config", config, "flows"], **pipes)
        connection, _ = listening.accept()
        with connection:
            yield command, connection
        command.wait(20)


def test_reader_that_left_is_not_an_error_to_shout_about(config: str, tmp_path: Path) -> None:
    with asking(config, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as (command, agent):
        assert command.stdout
        assert command.stderr
        command.stdout.close()
        agent.sendall(b'{"flows":[]}\n')
        assert command.stderr.read() == b""
    assert command.returncode == 128 + signal.SIGPIPE


def test_interrupt_is_quiet(config: str, tmp_path: Path) -> None:
    with asking(config, tmp_path, stderr=subprocess.PIPE) as (command, _):
        assert command.stderr
        command.send_signal(signal.SIGINT)
        assert command.stderr.read() == b""
    assert command.returncode == 128 + signal.SIGINT


def test_starts_without_loading_any_side() -> None:
    code = (
        "import sys, flowloom.cli.main as m; m.main(['version']); "
        "print([n for n in sys.modules if n.split('.')[0] in ('neutron', 'oslo_config', 'zmq', 'ovsdbapp', 'openstack') "
        "or n.startswith(('flowloom.neutron', 'flowloom.agent', 'flowloom.lab', 'flowloom.drivers'))])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False).stdout
    assert shown.splitlines()[-1] == "[]"


def test_missing_client_library_names_the_extra_to_install() -> None:
    code = (
        "import sys; sys.modules['zmq'] = None; import flowloom.cli.main as m; "
        "sys.exit(m.main(['bus', '--url', 'zmq+ipc:///nowhere']))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr == (
        "flowloom: bus: this needs the Python module zmq; install it with pip install 'flowloom[zeromq]'\n"
    )


WHOLE_CONFIG = """
deployment = "lab"
store = "sqlite:///{dir}/store/northbound.sqlite"
[neutron]
database = "sqlite+immediate:///{dir}/neutron.sqlite"
api = "{api}"
recovery = "{dir}/recovery.sock"
[agents]
h1 = "{dir}/agent.sock"
"""


def status_rows(tmp_path: Path, api: str) -> tuple[int, dict[str, dict[str, object]]]:
    path = tmp_path / "whole.toml"
    path.write_text(WHOLE_CONFIG.format(dir=tmp_path, api=api))
    ended = flowloom("--config", str(path), "status", "--json")
    assert ended.stderr == ""
    return ended.returncode, {row["layer"]: row for row in json.loads(ended.stdout)}


def test_status_with_everything_down_has_a_row_for_each_layer_and_is_1(tmp_path: Path) -> None:
    code, rows = status_rows(tmp_path, "http://127.0.0.1:9")
    assert code == 1
    assert {layer: row["state"] for layer, row in rows.items()} == {
        "neutron api": "down",
        "sql": "down",
        "recovery": "down",
        "store": "down",
        "bus": "none",
        "agent h1": "down",
        "switch h1": "unknown",
    }
    assert rows["neutron api"]["note"] == "http://127.0.0.1:9: [Errno 111] Connection refused"
    assert rows["store"]["note"] == f"the directory {tmp_path}/store does not exist; create it"


class Api(BaseHTTPRequestHandler):
    """Answers as the path says: `/503` with 503, `/401` with 401."""

    def do_GET(self) -> None:
        code = next((number for number in (401, 503) if self.path.startswith(f"/{number}")), 200)
        self.send_response(code)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


# Loading Neutron in the same process leaves eventlet's copy, which nobody serves, as the attribute `server` of `http`;
# what is imported by name is the standard library's own.
@pytest.fixture
def api() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_status_of_what_is_up(tmp_path: Path, api: str, agent: list[bytes]) -> None:
    agent.append(b'{"chassis":"h1","in_sync":true,"store":{"connected":true},"switch":{"connected":true,"flows":42}}')
    (tmp_path / "store").mkdir()
    code, rows = status_rows(tmp_path, api)
    assert code == 1, "SQL and recovery are still down"
    assert [row["state"] for row in rows.values()] == ["up", "down", "down", "up", "none", "up", "up"]
    assert rows["neutron api"]["note"] == f"{api} answers 200"
    assert rows["switch h1"]["note"] == "42 flows"


def test_api_that_wants_a_token_is_up(tmp_path: Path, api: str) -> None:
    _, rows = status_rows(tmp_path, f"{api}/401")
    assert (rows["neutron api"]["state"], rows["neutron api"]["note"]) == ("up", f"{api}/401 answers 401 Unauthorized")


def test_api_that_answers_an_error_is_down(tmp_path: Path, api: str) -> None:
    _, rows = status_rows(tmp_path, f"{api}/503")
    assert rows["neutron api"] == rows["neutron api"] | {
        "state": "down",
        "note": f"{api}/503 answers 503 Service Unavailable",
    }


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("store", "papyrus:///x", "store: no driver for 'papyrus'"),
        ("bus", "pigeon:///x", "bus: no driver for 'pigeon'"),
    ],
)
def test_status_with_a_url_that_no_driver_knows_is_2(tmp_path: Path, key: str, value: str, sentence: str) -> None:
    path = tmp_path / "f.toml"
    settings = {"deployment": "lab", "store": f"sqlite:///{tmp_path}/nb.sqlite", key: value}
    path.write_text("".join(f'{name} = "{text}"\n' for name, text in settings.items()))
    ended = flowloom("--config", str(path), "status")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"flowloom: {sentence}")


def test_port_show_with_everything_down_says_that_nobody_knows_and_is_3(tmp_path: Path) -> None:
    path = tmp_path / "whole.toml"
    path.write_text(WHOLE_CONFIG.format(dir=tmp_path, api=""))
    ended = flowloom("--config", str(path), "port", "show", "p1")
    assert ended.returncode == 3
    assert ended.stdout.splitlines()[1].startswith("unknown: Neutron: Neutron's database ")


def test_port_that_neutron_and_store_lack_is_4(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    path = tmp_path / "f.toml"
    path.write_text(f'deployment = "lab"\nstore = "sqlite:///{tmp_path}/store/nb.sqlite"\n')
    ended = flowloom("--config", str(path), "port", "show", "p1", "--json")
    assert ended.returncode == 4
    assert json.loads(ended.stdout)["verdict"] == "no such port"
