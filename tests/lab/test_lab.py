"""The lab as a whole, without agents and Neutron: what is built works, what is broken heals, what is left is nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from flowloom.kernel.errors import Misconfigured
from flowloom.lab import host, network, processes, tools
from flowloom.lab.cloud import Lab
from flowloom.lab.errors import LabFailed, NoSuch
from flowloom.lab.processes import until

Address: TypeAlias = Callable[[Lab, int], str]
Wire: TypeAlias = Callable[[Lab, int], None]

pytestmark = pytest.mark.lab


def left_of(lab: Lab) -> list[object]:
    """Everything on this machine that belongs to the lab."""
    layout = lab.layout
    spaces = network.namespaces(layout)
    remains: list[object] = [*spaces, *processes.marked(layout.marker), *Path("/etc/netns").glob(f"{layout.prefix}*")]
    return remains + [path for path in (layout.dir, layout.failed_dir) if path.exists()]


def test_vms_on_two_hosts_ping_each_other_through_the_tunnel(pair: Lab, address: Address) -> None:
    address(pair, 1)
    target = address(pair, 2)
    result = pair.ping("vm1", target, count=20, interval=0.02)
    assert (result.sent, result.received, result.lost) == (20, 20, 0)
    assert result.rtt is not None and 0 < result.rtt.min_ms <= result.rtt.avg_ms <= result.rtt.max_ms
    # TCP needs finished checksums, which a ping does not show.
    code = "import socket; s = socket.create_server(('10.0.0.2', 80)); print('open', flush=True); c = s.accept()[0]; c.send(b'hello')"
    with subprocess.Popen(pair.command("vm2", [sys.executable, "-c", code]), stdout=subprocess.PIPE) as server:
        assert server.stdout and server.stdout.readline() == b"open\n"
        client = "import socket; print(socket.create_connection(('10.0.0.2', 80), 5).recv(9).decode())"
        answer = pair.exec("vm1", [sys.executable, "-c", client], timeout=20)
        server.kill()
    assert answer.stdout == "hello\n", answer.stderr


def test_hosts_kernel_answers_for_no_cable_of_its_switch(pair: Lab) -> None:
    for cable in ("eth0", pair.vm("vm1").interface):
        assert "NOARP" in pair.exec("h1", ["ip", "link", "show", cable]).stdout
        assert "inet6" not in pair.exec("h1", ["ip", "address", "show", cable]).stdout


def test_background_ping_counts_exactly_what_a_cut_link_swallowed(pair: Lab, address: Address) -> None:
    address(pair, 1)
    target = address(pair, 2)
    with pair.pinging("vm1", target, interval=0.01) as ping:
        ping.await_first(5)
        pair.cut("link@h2")
        assert pair.status().part("link@h2").state == "cut"
        assert pair.ping("vm1", target, count=5, interval=0.02).received == 0
        pair.start("link@h2")
        assert pair.ping("vm1", target, count=2, interval=0.02).lost == 0
        result = ping.stop()
    assert result.lost >= 5
    assert result.sent == result.received + result.lost
    first, last = result.lost_numbers[0], result.lost_numbers[-1]
    assert 0 < first <= last < result.sent - 1, "the losses lie between the cut and the healing"


def test_frames_arrive_as_they_were_sent(pair: Lab) -> None:
    tagged = bytes.fromhex("ffffffffffff 020000000909 8100 0007 88b5") + b"tagged" * 10
    plain = bytes.fromhex("ffffffffffff 020000000909 88b5") + b"spoofed" * 10
    with pair.capture("vm2") as capture:
        pair.inject("vm1", [tagged, plain, plain])
        capture.await_frame(lambda frame: frame == plain, 5)
        assert until(lambda: capture.frames().count(plain) == 2, 5)
        assert capture.frames().count(tagged) == 1


def test_capture_of_a_missing_interface_says_so(bare: Lab) -> None:
    with pytest.raises(LabFailed, match="No such device"):
        bare.capture("h1", "eth9")


def test_flows_and_groups_are_shown_without_counters(pair: Lab) -> None:
    assert any("tun_id=0x7,in_port=10 actions=output:" in line for line in pair.flows("h1"))
    assert not any("n_packets" in line for line in pair.flows("h1"))
    assert pair.groups("h1") == []


@pytest.mark.parametrize("what", ["switch@h1", "ovsdb@h1"])
def test_part_is_paused_killed_and_started_again(pair: Lab, what: str, address: Address, wire: Wire) -> None:
    before = pair.status().part(what)
    assert before.state == "up" and before.pid
    pair.pause(what)
    assert pair.status().part(what).state == "paused"
    assert not pair.status().whole
    pair.start(what)
    assert pair.status().part(what).pid == before.pid
    pair.kill(what)
    pair.kill(what)  # Nothing is left to be killed, which is no error.
    assert pair.status().part(what).state == "down"
    pair.start(what)
    after = pair.status().part(what)
    assert after.state == "up" and after.pid != before.pid
    neighbours = host.appctl(pair.host("h1"), "tnl/neigh/show")
    assert f"{pair.host('h2').tunnel_ip} " in neighbours, "known before the first packet"
    address(pair, 1)
    target = address(pair, 2)
    if what.startswith("switch"):
        wire(pair, 1)  # br-int's flows went with the switch; its tunnel address and neighbours must not have.
    assert pair.ping("vm1", target, count=5, interval=0.02).lost == 0


def test_verb_that_does_not_fit_its_part_says_which_does(bare: Lab) -> None:
    with pytest.raises(LabFailed, match="link@h1 is not a process: it can be cut off"):
        bare.kill("link@h1")
    with pytest.raises(LabFailed, match="killed or paused, not cut off"):
        bare.cut("switch@h1")
    with pytest.raises(NoSuch, match=r"no part 'switch@h3'; it has .*switch@h2"):
        bare.kill("switch@h3")
    with pytest.raises(NoSuch, match="no part 'store'"):
        bare.cut("store")  # A bare lab has none of its own.
    bare.kill("switch@h1")
    with pytest.raises(LabFailed, match="nothing to pause"):
        bare.pause("switch@h1")


def test_vm_is_added_once_and_removed_with_all_that_runs_in_it(pair: Lab) -> None:
    with pytest.raises(Misconfigured, match="has a VM vm1 already, on h1"):
        pair.vm_add("vm1", "h2", "port-9", mac="02:00:00:00:09:01")
    with pytest.raises(Misconfigured, match="--host: h3 is not a host"):
        pair.vm_add("vm3", "h3", "port-9", mac="02:00:00:00:09:01")
    with pytest.raises(Misconfigured, match="NAME: 'h1'"):
        pair.vm_add("h1", "h1", "port-9", mac="02:00:00:00:09:01")
    with subprocess.Popen(pair.command("vm1", ["sleep", "600"])) as inside:
        assert until(lambda: [p.pid for p in processes.inside([pair.vm("vm1").netns])] == [inside.pid], 5)
        pair.vm_rm("vm1")
        assert inside.wait(10) == -signal.SIGTERM
    assert [vm.name for vm in pair.status().vms] == ["vm2"]
    assert pair.vm("vm1").netns not in network.namespaces(pair.layout)
    with pytest.raises(NoSuch, match="no VM vm1; it has vm2"):
        pair.vm_rm("vm1")
    pair.vm_add("vm1", "h2", "port-1", mac="02:00:00:00:01:01")


def test_vm_that_cannot_be_plugged_in_leaves_nothing(bare: Lab) -> None:
    bare.kill("ovsdb@h1")
    with pytest.raises(LabFailed, match="ovs-vsctl"):
        bare.vm_add("vm1", "h1", "port-1", mac="02:00:00:00:01:01")
    assert bare.status().vms == ()
    assert bare.vm("vm1").netns not in network.namespaces(bare.layout)


def test_up_again_changes_nothing_and_another_size_is_refused(bare: Lab) -> None:
    before = [part.pid for part in bare.status().parts]
    assert bare.up(hosts=2, bare=True) is False
    with pytest.raises(Misconfigured, match=r"--hosts: the lab in .* is up with hosts 2"):
        bare.up(hosts=3, bare=True)
    assert [part.pid for part in bare.status().parts] == before


def test_down_leaves_nothing_and_may_be_repeated(pair: Lab) -> None:
    pair.pause("switch@h1")
    outside = processes.spawn(
        ["sleep", "600"], pair.layout.dir / "x.pid", pair.layout.dir / "x.log", tools.environment(pair.layout)
    )
    with subprocess.Popen(pair.command("vm1", ["sleep", "600"])) as guest:
        assert until(lambda: [p.pid for p in processes.inside([pair.vm("vm1").netns])] == [guest.pid], 5)
        subprocess.run(["ip", "netns", "delete", pair.vm("vm2").netns], check=True)  # As a reboot does it to all.
        assert pair.down() is True
        assert guest.wait(10) == -signal.SIGTERM
    assert not outside.alive, "it was in none of the lab's namespaces"
    assert left_of(pair) == []
    assert pair.down() is False


def test_labs_side_by_side_do_not_touch_each_other(pair: Lab, address: Address) -> None:
    with tempfile.TemporaryDirectory(prefix="fl-", dir="/run", ignore_cleanup_errors=True) as directory:
        other = Lab(directory)
        try:
            other.up(hosts=2, bare=True)
            other.vm_add("vm1", "h1", "port-1", mac="02:00:00:00:01:01")
            address(pair, 1)
            target = address(pair, 2)
            assert address(other, 1) == "10.0.0.1"
            assert pair.ping("vm1", target, count=3, interval=0.05).lost == 0
            assert other.ping("vm1", target, count=2, interval=0.05).received == 0
        finally:
            other.down()
    assert pair.status().whole
    assert pair.ping("vm1", target, count=3, interval=0.05).lost == 0


@pytest.mark.parametrize("step", ["underlay", "host h1", "host h3"])
def test_up_that_is_killed_half_way_is_cleaned_up(lab: Lab, step: str) -> None:
    code = "import sys; from flowloom.lab.cloud import Lab; Lab(sys.argv[1]).up(hosts=4, bare=True, progress=lambda line: print(line, flush=True))"
    with subprocess.Popen([sys.executable, "-c", code, str(lab.layout.dir)], stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout
        assert any(step in line for line in up.stdout)
        up.kill()
    assert network.namespaces(lab.layout) != []
    with pytest.raises(Misconfigured, match="never finished"):
        lab.status()
    lab.down()
    assert left_of(lab) == []


def test_up_builds_anew_after_one_that_was_killed_half_way(lab: Lab) -> None:
    code = "import sys; from flowloom.lab.cloud import Lab; Lab(sys.argv[1]).up(hosts=4, bare=True, progress=lambda line: print(line, flush=True))"
    with subprocess.Popen([sys.executable, "-c", code, str(lab.layout.dir)], stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout and up.stdout.readline()
        up.kill()
    lines: list[str] = []
    assert lab.up(hosts=1, bare=True, progress=lines.append)
    assert "removed what was left" in lines[0]
    assert lab.status().whole
    assert len(network.namespaces(lab.layout)) == 2


def test_up_that_fails_removes_what_it_built_and_keeps_the_logs(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "ovs-vswitchd"
    broken.write_text("#!/bin/sh\necho cannot do this >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(LabFailed, match=r"switch@h\d ended at once; see (\S+): cannot do this") as caught:
        lab.up(hosts=2, bare=True)
    assert Path(str(caught.value).split("see ")[1].split(": ")[0]).read_text() == "cannot do this\n"
    assert left_of(lab) == [lab.layout.failed_dir]
    lab.down()
    assert left_of(lab) == []


def test_stale_pid_file_of_another_boot_is_no_sign_of_life(bare: Lab) -> None:
    text = bare.layout.state_file.read_text()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    bare.layout.state_file.write_text(text.replace(boot, "an-earlier-boot"))
    with pytest.raises(Misconfigured, match="ended with the last reboot"):
        bare.status()
    assert bare.up(hosts=1, bare=True) is True
    assert bare.status().whole


def test_directory_of_somebody_else_is_left_alone(lab: Lab) -> None:
    (lab.layout.dir / "thesis.txt").write_text("years of work")
    with pytest.raises(Misconfigured, match="something else than a lab"):
        lab.up(bare=True)
    with pytest.raises(Misconfigured, match="nothing was removed"):
        lab.down()
    (lab.layout.dir / "thesis.txt").unlink()


def test_directory_too_deep_for_unix_sockets_is_refused() -> None:
    with pytest.raises(Misconfigured, match=r"--dir: .* unix sockets allow"):
        Lab("/run/" + "d" * 90)


def test_verbs_that_change_the_lab_wait_for_each_other(bare: Lab) -> None:
    code = "import sys; from flowloom.lab.cloud import Lab; Lab(sys.argv[1]).vm_add(sys.argv[2], 'h1', sys.argv[2], mac='02:00:00:00:01:0' + sys.argv[2][-1])"
    adding = [
        subprocess.Popen([sys.executable, "-c", code, str(bare.layout.dir), f"vm{number}"]) for number in range(1, 5)
    ]
    assert [process.wait(60) for process in adding] == [0, 0, 0, 0]
    assert [vm.name for vm in bare.status().vms] == ["vm1", "vm2", "vm3", "vm4"]
