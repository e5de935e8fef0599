"""Stored bytes are frozen: what this release writes, every later one reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloom.kernel.errors import Rejected
from flowloom.model.codec import decode, encode
from flowloom.model.keys import Key, key_of, parse_key, project_prefix, scope_prefix
from flowloom.model.records import (
    NORTHBOUND,
    AddressPair,
    Chassis,
    DhcpOption,
    FixedIP,
    HostRoute,
    Network,
    Port,
    PortStatus,
    Record,
    Subnet,
    node_version,
)

FROZEN: list[tuple[Record, bytes]] = [
    (
        Network(id="n", version=4, project_id="p", key=7, name="blue", mtu=1442, segmentation_id=10, dns_domain="x."),
        b'{"schema":1,"kind":"network","id":"n","version":4,"project_id":"p","key":7,"name":"blue","mtu":1442,'
        b'"segmentation_id":10,"dns_domain":"x."}',
    ),
    (
        Subnet(id="s", version=1, network_id="n", cidr="10.0.0.0/24", gateway_ip="10.0.0.1",
               dns_nameservers=("9.9.9.9",), host_routes=(HostRoute("10.1.0.0/16", "10.0.0.2"),), enable_dhcp=False),
        b'{"schema":1,"kind":"subnet","id":"s","version":1,"network_id":"n","cidr":"10.0.0.0/24",'
        b'"gateway_ip":"10.0.0.1","enable_dhcp":false,"dns_nameservers":["9.9.9.9"],'
        b'"host_routes":[["10.1.0.0/16","10.0.0.2"]]}',
    ),
    (
        Port(id="o", version=9, project_id="p", key=3, network_id="n", mac_address="fa:16:3e:00:00:01",
             fixed_ips=(FixedIP("s", "10.0.0.5"),), host="h1", vif_type="ovs",
             allowed_address_pairs=(AddressPair("10.0.0.9", "fa:16:3e:00:00:02"),),
             extra_dhcp_opts=(DhcpOption("mtu", "1300"),), port_security_enabled=False),
        b'{"schema":1,"kind":"port","id":"o","version":9,"project_id":"p","key":3,"network_id":"n",'
        b'"mac_address":"fa:16:3e:00:00:01","fixed_ips":[["s","10.0.0.5"]],"host":"h1","vif_type":"ovs",'
        b'"port_security_enabled":false,"allowed_address_pairs":[["10.0.0.9","fa:16:3e:00:00:02"]],'
        b'"extra_dhcp_opts":[["mtu","1300",4]]}',
    ),
    (
        Chassis(id="h1", version=1, key=2, tunnel_ip="192.168.50.1", started_at=1.5),
        b'{"schema":1,"kind":"chassis","id":"h1","version":1,"key":2,"tunnel_ip":"192.168.50.1","started_at":1.5}',
    ),
    (
        PortStatus(id="o", version=node_version(5, 6), chassis="h1", port_version=9, up=True),
        b'{"schema":1,"kind":"port_status","id":"o","version":21474836486,"chassis":"h1","port_version":9,"up":true}',
    ),
]  # fmt: skip


@pytest.mark.parametrize(("record", "stored"), FROZEN, ids=lambda value: getattr(value, "kind", ""))
def test_stored_bytes_are_frozen(record: Record, stored: bytes) -> None:
    assert encode(record) == stored
    assert decode("k", stored) == decode("k", stored, record.kind) == record


def test_every_kind_has_frozen_bytes() -> None:
    assert {type(record) for record, _ in FROZEN} == set(NORTHBOUND)


def test_fields_a_later_release_added_are_passed_over() -> None:
    stored = FROZEN[0][1].replace(b'"mtu":1442', b'"mtu":1442,"colour":"blue"')
    assert decode("k", stored) == FROZEN[0][0]


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (b'{"schema":2,"kind":"network","id":"n","version":1,"key":1}', "newer"),
        (b'{"schema":1,"kind":"dragon","id":"n","version":1}', "unknown kind"),
        (b'{"schema":1,"kind":"network","id":"n","version":1}', "key"),
        (b'{"schema":1,"kind":"network","id":"n","version":"one","key":1}', "version"),
        (b"", "readable"),
        (b"\xff\xfe", "readable"),
        (b'{"schema":1,"kind":"subnet","id":"n","version":1}', "says"),
    ],
)
def test_what_is_no_record_is_rejected_and_named(stored: bytes, said: str) -> None:
    with pytest.raises(Rejected) as caught:
        decode("/the/key", stored, "network" if b"subnet" in stored else "")
    assert caught.value.ref == "/the/key"
    assert said in caught.value.why


@given(st.binary(max_size=200))
def test_garbage_is_rejected_and_nothing_else(stored: bytes) -> None:
    with pytest.raises(Rejected):
        decode("k", stored, "port")


@given(st.lists(st.text(min_size=1), min_size=5, max_size=5))
def test_a_key_of_any_parts_is_parsed_back(parts: list[str]) -> None:
    assert parse_key(str(Key(*parts))) == Key(*parts)


def test_keys_lie_under_their_prefixes() -> None:
    key = key_of("d", "a/b", "net", "port", "x")
    assert key.startswith(scope_prefix("d", "a/b", "net"))
    assert key.startswith(project_prefix("d", "a/b"))
    assert not key.startswith(project_prefix("d", "a"))
    assert key_of("d", "", "h1", "chassis", "h1") == "/d/-/h1/chassis/h1"


@pytest.mark.parametrize("text", ["", "/", "a/b/c/d/e", "/a/b/c/d", "/a/b/c/d/e/f", "/a//c/d/e"])
def test_what_is_no_key_is_rejected(text: str) -> None:
    with pytest.raises(Rejected):
        parse_key(text)


def test_versions_of_nodes_grow_with_epoch_then_counter() -> None:
    assert node_version(1, 5) < node_version(1, 6) < node_version(2, 0) < 1 << 63
    with pytest.raises(ValueError, match="out of range"):
        node_version(1 << 31, 0)
