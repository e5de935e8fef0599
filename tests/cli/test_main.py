"""The command itself: how it starts and how it ends, as a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
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


def test_reader_that_leaves_early_is_not_an_error_to_shout_about(config: str, agent: list[bytes]) -> None:
    flow = b'{"table":"LOOKUP","match":"%s"}' % (b"x" * 200)
    agent.append(b'{"flows":[%s]}' % b",".join([flow] * 5000))
    command = subprocess.Popen(
        [sys.executable, "-m", "flowloom", "--config", config, "flows"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert command.stdout and command.stderr
    command.stdout.read(10)
    command.stdout.close()
    assert command.stderr.read() == b""
    command.wait(20)


def test_interrupt_is_quiet(config: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "agent.sock"))
        listening.listen()
        command = subprocess.Popen(
            [sys.executable, "-m", "flowloom", "--config", config, "flows"], stderr=subprocess.PIPE
        )
        assert command.stderr
        listening.settimeout(30)
        connection, _ = listening.accept()
        with connection:
            command.send_signal(signal.SIGINT)
            assert command.stderr.read() == b""
    assert command.wait(20) == 128 + signal.SIGINT


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
