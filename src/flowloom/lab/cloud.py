"""The lab: builds the cloud, plugs VMs in, breaks parts on purpose, takes everything away again.

    lab = Lab("/run/my-lab")
    lab.up(hosts=2, progress=print)
    lab.vm_add("vm1", "h1", port_id)
    lease = lab.dhcp("vm1")
    assert lab.ping("vm1", "10.0.0.1").lost == 0
    lab.kill("agent@h1"); lab.start("agent@h1")
    lab.down()

What exists is asked of the machine each time; between two verbs only `lab.json` is kept.  Any process may attach to a
lab by its directory, and verbs that change it wait for each other.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from flowloom.kernel.errors import Misconfigured
from flowloom.lab import build, dhcp, faults, host, network, neutron, probes, processes, state, status, store, tools
from flowloom.lab.dhcp import Client, Event
from flowloom.lab.errors import LabFailed, NoSuch
from flowloom.lab.layout import DEFAULT_DIR, HostLayout, Layout, VmLayout, check_vm_name, host_number
from flowloom.lab.lease import Lease
from flowloom.lab.status import Status

__all__ = ["Lab"]


class Lab:
    """The lab of one directory, whether it is up or not.

    Errors of every method: Misconfigured for a setting that cannot be, NoSuch for a name that the lab does not have,
    LabFailed when a part of the machine did not do what was asked.
    """

    def __init__(self, dir: Path | str = DEFAULT_DIR) -> None:
        self.layout = Layout.of(dir)

    # The cloud

    def up(
        self,
        hosts: int = 2,
        *,
        sql: str = "",
        store: str = "",
        bus: str | None = None,
        bare: bool = False,
        api_port: int = 0,
        recoveries: int = 1,
        progress: Callable[[str], None] = lambda line: None,
    ) -> bool:
        """Build the cloud; False when it is up already.  What was built goes away again when it fails.

        sql, store, bus: URLs of servers that somebody else runs; "" and None: the lab's own.  bus "": no bus.
        store: or the name of what the lab is to run itself, see `flowloom.lab.stores.forms`.
        bare: hosts, switches and VMs only.  api_port: 0 for any free one.  recoveries: how many recovery processes.
        progress: called with one line a step.
        """
        wanted = build.plan(self.layout, build.Request(hosts, sql, store, bus, bare, api_port, recoveries))
        tools.require_lab(bare)
        build.claim(self.layout)
        with state.lock(self.layout):
            present = build.loaded(self.layout)
            if present:
                build.check_same(present, wanted, self.layout)
                return False
            if build.tear_down(self.layout):
                progress("removed what was left of a lab that did not end properly")
            build.clear(self.layout)
            try:
                build.build(self.layout, wanted, build.Log(progress))
            except BaseException as error:
                progress("that failed: removing what was built")
                build.tear_down(self.layout)
                self._bury(error)
                raise
        return True

    def down(self) -> bool:
        """End every process, delete every namespace and the directory; False when there was nothing.

        Works after a crash of anything at any moment, and may be repeated.
        """
        tools.require_root()
        if self.layout.dir.is_dir() and build.is_lab(self.layout):
            with state.lock(self.layout):
                build.tear_down(self.layout)
                build.remove_files(self.layout)
            return True
        if self.layout.dir.is_dir() and any(self.layout.dir.iterdir()):
            raise Misconfigured("--dir", f"{self.layout.dir} holds something else than a lab: nothing was removed")
        found = build.tear_down(self.layout)
        return build.remove_files(self.layout) or found

    def status(self) -> Status:
        """Every part and VM as it is now."""
        return status.look(self.layout, state.need(self.layout))

    # VMs

    def vm_add(self, name: str, host_name: str, port_id: str, *, mac: str = "", mtu: int = 0) -> state.Vm:
        """Make a VM and plug it in: its port is bound to the host in Neutron, its card has the port's MAC and MTU.

        mac and mtu (bytes) are given where there is no Neutron to ask, in a bare lab.
        """
        tools.require_root()
        check_vm_name(name)
        with state.held(self.layout) as present:
            if name in present.vms:
                raise Misconfigured("NAME", f"the lab has a VM {name} already, on {present.vms[name].host}")
            at = self.layout.host(host_number(host_name, present.hosts))
            if mac:
                vm = state.Vm(name, host_name, port_id, mac, mtu or 1400)
            elif present.bare:
                raise Misconfigured("mac", "a bare lab has no Neutron to ask: give the VM a MAC")
            else:
                port = neutron.attach(present.api_url, port_id, name, host_name)
                vm = state.Vm(name, host_name, port.id, port.mac, port.mtu)
            # Remembered first: a crash from here on leaves a VM that `vm rm` and `down` know of.
            state.save(self.layout, _with_vms(present, {**present.vms, name: vm}))
            try:
                network.add_vm(self.vm(name), at, vm)
                host.plug(at, self.vm(name), port_id)
            except BaseException:
                network.remove([self.vm(name).netns])
                state.save(self.layout, present)
                raise
        return vm

    def vm_rm(self, name: str) -> None:
        """Unplug a VM, end what runs in it, and unbind its port; Neutron need not answer for this."""
        tools.require_root()
        with state.held(self.layout) as present:
            vm = _vm(present, name)
            at = self.layout.host(host_number(vm.host, present.hosts))
            processes.end(processes.inside([self.vm(name).netns]))
            try:
                host.unplug(at, self.vm(name))
            finally:
                network.remove([self.vm(name).netns])
                shutil.rmtree(self.vm(name).dir, ignore_errors=True)
                state.save(self.layout, _with_vms(present, {k: v for k, v in present.vms.items() if k != name}))
            if not present.bare:
                neutron.detach(present.api_url, vm.port_id)

    def exec(self, name: str, argv: Sequence[str], timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command in a VM or host and return what it said; its exit code is in the result."""
        try:
            return subprocess.run(
                self.command(name, argv), check=False, capture_output=True, text=True, timeout=timeout
            )
        except subprocess.TimeoutExpired as error:
            raise LabFailed(f"{argv[0]} in {name} did not end within {timeout:g} s") from error

    def command(self, name: str, argv: Sequence[str]) -> tuple[str, ...]:
        """The command line that runs `argv` in a VM or host."""
        return network.enter(self._netns(name), *argv)

    # DHCP

    def dhcp(self, name: str, client: Client = "udhcpc", seconds: float = 20.0) -> Lease:
        """Start a DHCP client in a VM, in place of its present one, and wait for the lease that it applied.

        The client runs on and renews.
        """
        vm = self._known(name)
        dhcp.start(vm, client)
        return dhcp.await_lease(vm, seconds)

    def dhcp_events(self, name: str) -> list[Event]:
        """What the VM's present client has gone through, oldest first."""
        return dhcp.events(self._known(name))

    def dhcp_renew(self, name: str) -> None:
        """Have the VM's udhcpc renew its lease now; `dhcp_events` shows when it has."""
        dhcp.renew(self._known(name))

    def dhcp_release(self, name: str) -> None:
        """Have the VM's client give its lease back."""
        dhcp.release(self._known(name))

    # Faults

    def kill(self, what: str) -> None:
        """SIGKILL a part; nothing happens when it is down.  For parts see `flowloom.lab.faults`."""
        with state.held(self.layout) as present:
            faults.kill(self.layout, present, what)

    def pause(self, what: str) -> None:
        """SIGSTOP a part."""
        with state.held(self.layout) as present:
            faults.pause(self.layout, present, what)

    def cut(self, what: str) -> None:
        """Cut the store or a host's link off."""
        with state.held(self.layout) as present:
            faults.cut(self.layout, present, what)

    def start(self, what: str) -> None:
        """Undo whatever was done to a part, and wait until it answers; nothing happens when it is up."""
        with state.held(self.layout) as present:
            faults.start(self.layout, present, what)

    # The store.  To start it again: `start("store")`.

    def store_stop(self) -> None:
        """End the store's servers in good order; cut an embedded store off."""
        with state.held(self.layout) as present:
            store.stop(self.layout, present)

    def store_wipe(self) -> None:
        """Stop the store, throw away all it holds, and start it empty."""
        with state.held(self.layout) as present:
            store.wipe(self.layout, present)

    def store_save(self, name: str) -> None:
        """Keep a copy of what the store holds; its servers are stopped and started for it."""
        with state.held(self.layout) as present:
            store.save(self.layout, present, name)

    def store_restore(self, name: str) -> None:
        """Stop the store, put a copy in place of what it holds, and start it.  NoSuch when there is no such copy."""
        with state.held(self.layout) as present:
            store.restore(self.layout, present, name)

    # Probes

    def ping(self, name: str, address: str, count: int = 3, interval: float = 0.2, size: int = 56) -> probes.PingResult:
        """Ping from a VM or host.  interval: seconds; size: bytes of payload."""
        with probes.Ping(self.layout, self._netns(name), address, count, interval, size) as ping:
            return ping.stop()

    def pinging(self, name: str, address: str, interval: float = 0.01, size: int = 56) -> probes.Ping:
        """Ping in the background until `stop()` of what is returned: a context manager."""
        return probes.Ping(self.layout, self._netns(name), address, 0, interval, size)

    def capture(self, name: str, interface: str = "eth0") -> probes.Capture:
        """Keep the frames that arrive at an interface of a VM or host: a context manager."""
        return probes.Capture(self.layout, self._netns(name), interface)

    def inject(self, name: str, frames: Iterable[bytes], interface: str = "eth0") -> None:
        """Send raw Ethernet frames from a VM or host."""
        probes.inject(self.layout, self._netns(name), interface, frames)

    def flows(self, host_name: str) -> list[str]:
        """A host's flows without counters, as `ovs-ofctl -O OpenFlow15 dump-flows` prints them, sorted."""
        return host.flows(self.host(host_name))

    def groups(self, host_name: str) -> list[str]:
        """A host's groups, as `ovs-ofctl -O OpenFlow15 dump-groups` prints them, sorted."""
        return host.groups(self.host(host_name))

    # Where things are

    @property
    def api_url(self) -> str:
        """URL of Neutron's API."""
        return state.need(self.layout).api_url

    @property
    def clouds_file(self) -> Path:
        """clouds.yaml; the cloud in it is called `flowloom`."""
        return self.layout.clouds_file

    @property
    def deployment_file(self) -> Path:
        """flowloom.toml, for `flowloom --config`."""
        return self.layout.deployment_file

    def host(self, name: str) -> HostLayout:
        """Paths and addresses of a host."""
        return self.layout.host(host_number(name, state.need(self.layout).hosts))

    def vm(self, name: str) -> VmLayout:
        """Paths and names of a VM, whether it exists or not."""
        return self.layout.vm(name)

    def _known(self, name: str) -> VmLayout:
        _vm(state.need(self.layout), name)
        return self.vm(name)

    def _netns(self, name: str) -> str:
        present = state.need(self.layout)
        if name in present.vms:
            return self.vm(name).netns
        if name == "underlay":
            return self.layout.underlay
        try:
            return self.layout.host(host_number(name, present.hosts)).netns
        except Misconfigured as error:
            raise NoSuch(f"the lab has neither a VM nor a host {name}") from error

    def _bury(self, error: BaseException) -> None:
        """Remove the files of a failed `up`; the logs stay when the failure's own sentence points to them."""
        if not isinstance(error, LabFailed):
            build.remove_files(self.layout)
            return
        shutil.rmtree(self.layout.failed_dir, ignore_errors=True)
        self.layout.dir.rename(self.layout.failed_dir)
        sentence = str(error).replace(f"{self.layout.dir}/", f"{self.layout.failed_dir}/")
        raise LabFailed(sentence) from error


def _with_vms(present: state.State, vms: dict[str, state.Vm]) -> state.State:
    return msgspec.structs.replace(present, vms=vms)


def _vm(present: state.State, name: str) -> state.Vm:
    if name not in present.vms:
        known = ", ".join(sorted(present.vms)) or "none"
        raise NoSuch(f"the lab has no VM {name}; it has {known}")
    return present.vms[name]
