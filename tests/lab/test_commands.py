"""The verbs and their exit codes, as scripts see them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from flowloom.lab import network
from flowloom.lab.cloud import Lab


def flowloom(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flowloom", "lab", *argv]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | env, timeout=120)


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert done.stdout == "" and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done
    return done.stderr


@pytest.mark.lab
def test_life_of_a_lab_by_its_verbs(lab: Lab) -> None:
    where = ("--dir", str(lab.layout.dir))
    up = flowloom("up", "--hosts", "1", "--bare", *where)
    assert up.returncode == 0 and "the lab is up" in up.stdout, up
    again = flowloom("up", "--hosts", "1", "--bare", *where)
    assert again.returncode == 0 and "up already" in again.stdout

    whole = flowloom("status", "--json", *where)
    told = json.loads(whole.stdout)
    assert whole.returncode == 0 and told["whole"] is True
    assert [part["name"] for part in told["parts"]] == ["ovsdb@h1", "switch@h1", "link@h1"]
    assert told["parts"][1]["state"] == "up" and told["parts"][1]["pid"] > 0 and told["parts"][1]["age_seconds"] >= 0

    assert flowloom("kill", "switch@h1", *where).returncode == 0
    hurt = flowloom("status", *where)
    assert hurt.returncode == 1 and "switch@h1      down" in hurt.stdout
    assert flowloom("start", "switch@h1", *where).returncode == 0
    assert flowloom("cut", "link@h1", *where).returncode == 0
    assert "link@h1        cut" in flowloom("status", *where).stdout
    assert flowloom("start", "link@h1", *where).returncode == 0
    assert flowloom("pause", "ovsdb@h1", *where).returncode == 0
    assert "ovsdb@h1       paused" in flowloom("status", *where).stdout
    assert flowloom("start", "ovsdb@h1", *where).returncode == 0

    lab.vm_add("vm1", "h1", "port-1", mac="02:00:00:00:01:01")
    assert "02:00:00:00:01:01" in flowloom("exec", *where, "vm1", "--", "ip", "link", "show", "eth0").stdout
    assert flowloom("exec", *where, "vm1", "--", "sh", "-c", "exit 7").returncode == 7
    assert "vm1            up" in flowloom("status", *where).stdout
    assert flowloom("vm", "rm", "vm1", *where).returncode == 0

    down = flowloom("down", *where)
    assert down.returncode == 0 and "is gone" in down.stdout
    nothing = flowloom("down", *where)
    assert nothing.returncode == 0 and "there was no lab" in nothing.stdout
    assert network.namespaces(lab.layout) == []


@pytest.mark.lab
def test_mistakes_end_in_one_sentence_and_a_code(lab: Lab) -> None:
    where = ("--dir", str(lab.layout.dir))
    for code, sentence, argv in (
        (2, "no lab in", ("status",)),
        (2, "no lab in", ("vm", "add", "vm1", "--host", "h1", "--port", "x")),
        (2, "--hosts: 0 is not", ("up", "--hosts", "0", "--bare")),
        (2, "sqlite+immediate", ("up", "--sql", "sqlite:////tmp/x.sqlite")),
        (2, "no driver for 'nonsense'", ("up", "--store", "nonsense://x")),
    ):
        done = flowloom(*argv, *where)
        assert done.returncode == code, done
        assert sentence in done.stderr and "Traceback" not in done.stderr, done
    lab.up(hosts=1, bare=True)
    for code, sentence, argv in (
        (4, "no part 'agent@h9'", ("kill", "agent@h9", *where)),
        (4, "no VM vm9", ("vm", "rm", "vm9", *where)),
        (4, "neither a VM nor a host vm9", ("exec", *where, "vm9", "--", "true")),
        (2, "bare lab has no Neutron", ("vm", "add", "vm1", "--host", "h1", "--port", "x", *where)),
        (1, "not paused", ("pause", "link@h1", *where)),
    ):
        done = flowloom(*argv)
        assert done.returncode == code, done
        assert sentence in one_sentence(done)


@pytest.mark.lab
def test_taken_port_is_named_before_anything_is_left_behind(lab: Lab) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = flowloom("up", "--hosts", "1", "--api-port", str(port), "--dir", str(lab.layout.dir))
    assert done.returncode == 2 and f"--api-port: port {port} of 127.0.0.1 is taken" in done.stderr, done
    assert network.namespaces(lab.layout) == [] and not lab.layout.dir.exists()


@pytest.mark.lab
def test_missing_program_is_named_with_its_package(lab: Lab) -> None:
    # The system's own directories are always searched too, so a program can be missed only where it really is not.
    code = (
        "import sys; from flowloom.lab import tools; tools._PACKAGE_OF['no-such-switch'] = 'some-package'; "
        "tools._ALWAYS += ('no-such-switch',); from flowloom.cli.main import main; "
        "sys.exit(main(['lab', 'up', '--dir', sys.argv[1]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(lab.layout.dir)], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "no-such-switch: is not installed: apt-get install some-package" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody who is not")
def test_somebody_who_is_not_root_is_told_so() -> None:
    code = "import os, sys; import flowloom.lab.commands; from flowloom.cli.main import main; os.setuid(65534); sys.exit(main(['lab', 'up', '--dir', '/run/fl-nobody']))"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 2 and "needs root" in one_sentence(done)
