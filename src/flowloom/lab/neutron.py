"""The lab as Nova is to Neutron: it looks a port up, and says on which host the VM is."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from flowloom.lab.errors import LabFailed, NoSuch

_TIMEOUT_SECONDS = 60.0
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Port:
    """What a VM's cable must know of its Neutron port.  mtu: bytes, of its network."""

    id: str
    mac: str
    mtu: int


class _NeutronPort(msgspec.Struct, rename={"host": "binding:host_id"}):
    id: str
    network_id: str
    mac_address: str
    device_id: str = ""
    host: str = ""


class _PortAnswer(msgspec.Struct):
    port: _NeutronPort


class _NeutronNetwork(msgspec.Struct):
    mtu: int


class _NetworkAnswer(msgspec.Struct):
    network: _NeutronNetwork


def attach(api_url: str, port_id: str, vm: str, host: str) -> Port:
    """Bind the port to the VM and its host, unless it is bound there already.

    NoSuch when Neutron has no such port; LabFailed when Neutron refuses or does not answer.
    """
    port = _decode(_call("GET", f"{api_url}/v2.0/ports/{port_id}"), _PortAnswer).port
    if (port.host, port.device_id) != (host, vm):
        binding = {"binding:host_id": host, "device_id": vm, "device_owner": "compute:lab"}
        _call("PUT", f"{api_url}/v2.0/ports/{port_id}", {"port": binding})
    network = _decode(_call("GET", f"{api_url}/v2.0/networks/{port.network_id}"), _NetworkAnswer).network
    return Port(port.id, port.mac_address, network.mtu)


def detach(api_url: str, port_id: str) -> None:
    """Unbind the port; a port that is gone needs none of this.  LabFailed when Neutron does not answer."""
    try:
        binding = {"binding:host_id": "", "device_id": "", "device_owner": ""}
        _call("PUT", f"{api_url}/v2.0/ports/{port_id}", {"port": binding})
    except NoSuch:
        return


def _call(method: str, url: str, body: object = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise NoSuch(f"Neutron has no {url.rpartition('/v2.0/')[2]}") from error
        raise LabFailed(f"Neutron refuses {method} {url} with {error.code}: {_words(error.read())}") from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise LabFailed(f"Neutron's API does not answer at {url}: {reason}") from error


class _Fault(msgspec.Struct):
    message: str = ""


class _FaultAnswer(msgspec.Struct):
    NeutronError: _Fault = msgspec.field(default_factory=_Fault)


def _words(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_FaultAnswer).NeutronError.message or body.decode(errors="replace")
    except msgspec.DecodeError:
        return body.decode(errors="replace").strip()[:200]


def _decode(body: bytes, type: type[_Answer]) -> _Answer:
    try:
        return msgspec.json.decode(body, type=type)
    except msgspec.DecodeError as error:
        raise LabFailed(f"Neutron's API answers what it should not: {error}") from error
