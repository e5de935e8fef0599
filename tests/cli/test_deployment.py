"""flowloom.toml: where it is looked for, and what is wrong with it in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowloom.cli import deployment
from flowloom.cli.deployment import find, load
from flowloom.kernel.errors import Misconfigured

GOOD = """
deployment = "lab"
store = "sqlite:////d/northbound.sqlite"
bus = "zmq+ipc:///d/bus"
[neutron]
database = "sqlite+immediate:////d/neutron.sqlite"
api = "http://127.0.0.1:9696"
recovery = "/d/recovery.sock"
[agents]
h1 = "/d/h1/agent.sock"
"""


def written(path: Path, text: str = GOOD) -> Path:
    path.write_text(text)
    return path


def test_everything_is_read(tmp_path: Path) -> None:
    found = load(written(tmp_path / "f"), "--config")
    assert (found.deployment, found.store, found.bus) == ("lab", "sqlite:////d/northbound.sqlite", "zmq+ipc:///d/bus")
    assert found.neutron.database == "sqlite+immediate:////d/neutron.sqlite"
    assert found.neutron.recovery == "/d/recovery.sock"
    assert found.agents == {"h1": "/d/h1/agent.sock"}


def test_recovery_may_be_several(tmp_path: Path) -> None:
    text = GOOD.replace('recovery = "/d/recovery.sock"', 'recovery = ["/d/a.sock", "/d/b.sock"]')
    found = load(written(tmp_path / "f", text), "--config").neutron
    assert (found.recoveries, found.recovery) == (("/d/a.sock", "/d/b.sock"), "/d/a.sock")
    assert load(written(tmp_path / "g", GOOD.replace('"/d/recovery.sock"', '""')), "--config").neutron.recoveries == ()


def test_bus_neutron_and_agents_may_be_left_out(tmp_path: Path) -> None:
    found = load(written(tmp_path / "f", 'deployment = "d"\nstore = "s:"'), "--config")
    assert (found.bus, found.neutron.api, found.agents) == ("", "", {})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('store = "s:"', "deployment: is missing in"),
        ('deployment = "d"', "store: is missing in"),
        ('deployment = 3\nstore = "s:"', "deployment: in .* must be a text in quotes, not 3"),
        ('deployment = ""\nstore = "s:"', "deployment: in .* must be a text in quotes, not ''"),
        ('stroe = "s:"', "stroe: .* has no such setting; known: agents, bus, deployment, neutron, store"),
        ('deployment = "d"\nstore = "s:"\n[neutron]\nurl = "x"', r"neutron\.url: .* known: api, database, recovery"),
        ('deployment = "d"\nstore = "s:"\nneutron = "x"', r"neutron: in .* this is a section, \[neutron\]"),
        ('deployment = "d"\nstore = "s:"\n[neutron]\nrecovery = ["a", 1]', r"neutron\.recovery: .* a list of such"),
        ('deployment = "d"\nstore = "s:"\n[agents]\nh1 = 1', r"agents\.h1: .* not 1"),
        ("deployment = ", "--config: .* is not TOML"),
        ("\x80", "--config: .* is not TOML"),
    ],
)
def test_fault_is_named_by_its_setting(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "f").write_bytes(text.encode("latin-1"))
    with pytest.raises(Misconfigured, match=f"^{sentence}"):
        load(tmp_path / "f", "--config")


def test_missing_file_is_named_by_who_named_it(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"^--config: .*gone cannot be read: No such file"):
        find(str(tmp_path / "gone"), {})
    with pytest.raises(Misconfigured, match=r"^FLOWLOOM_CONFIG: .*gone cannot be read"):
        find(None, {"FLOWLOOM_CONFIG": str(tmp_path / "gone")})


def test_looked_up_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "SYSTEM_FILE", tmp_path / "system")
    monkeypatch.setattr(deployment, "LAB_FILE", tmp_path / "lab")
    with pytest.raises(Misconfigured, match=r"^--config: no deployment to ask"):
        find(None, {})
    lab, system, env, named = (written(tmp_path / name) for name in ("lab", "system", "env", "named"))
    system.unlink()
    assert find(None, {}).file == lab
    written(system)
    assert find(None, {}).file == system
    assert find(None, {"FLOWLOOM_CONFIG": str(env)}).file == env
    assert find(str(named), {"FLOWLOOM_CONFIG": str(env)}).file == named


def test_host_without_an_agent_is_refused_by_name(tmp_path: Path) -> None:
    found = load(written(tmp_path / "f"), "--config")
    assert found.agents_of("h1") == found.agents_of(None) == {"h1": "/d/h1/agent.sock"}
    with pytest.raises(Misconfigured, match=r"^--host: .* lists no agent of h7; it lists h1"):
        found.agents_of("h7")
