"""Stored bytes are frozen: what this release writes, every later one reads."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloom.kernel.errors import Rejected
from flowloom.model.codec import decode, encode
from flowloom.model.keys import Key, key_of, parse_key, project_prefix, scope_prefix
from flowloom.model.records import (
    NORTHBOUND,
    AddressGroup,
    AddressPair,
    BandwidthLimitRule,
    Chassis,
    DhcpOption,
    DscpMarkingRule,
    ExternalGateway,
    FixedIP,
    FloatingIP,
    HostRoute,
    MinimumBandwidthRule,
    MinimumPacketRateRule,
    Network,
    NetworkSegment,
    PacketRateLimitRule,
    Port,
    PortForwarding,
    PortStatus,
    QosPolicy,
    Record,
    Router,
    RouterInterface,
    SecurityGroup,
    SecurityGroupRule,
    Subnet,
    SubPort,
    Trunk,
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
        Network(id="n", version=4, key=7, external=True, qos_policy_id="q", network_type="vlan", segmentation_id=10,
                physical_network="x",
                segments=(NetworkSegment("a", "vlan", "x", 10), NetworkSegment("b", "geneve", None, 11, True))),
        b'{"schema":1,"kind":"network","id":"n","version":4,"key":7,"network_type":"vlan","segmentation_id":10,'
        b'"physical_network":"x","external":true,"qos_policy_id":"q",'
        b'"segments":[["a","vlan","x",10,false],["b","geneve",null,11,true]]}',
    ),
    (
        Subnet(id="s", version=1, network_id="n", cidr="10.0.0.0/24", segment_id="a",
               service_types=("network:floatingip",)),
        b'{"schema":1,"kind":"subnet","id":"s","version":1,"network_id":"n","cidr":"10.0.0.0/24","segment_id":"a",'
        b'"service_types":["network:floatingip"]}',
    ),
    (
        Port(id="o", version=9, key=3, network_id="n", mac_address="fa:16:3e:00:00:01", inactive_hosts=("h2",),
             qos_policy_id="q", security_group_ids=("g",)),
        b'{"schema":1,"kind":"port","id":"o","version":9,"key":3,"network_id":"n","mac_address":"fa:16:3e:00:00:01",'
        b'"security_group_ids":["g"],"inactive_hosts":["h2"],"qos_policy_id":"q"}',
    ),
    (
        Router(id="r", version=2, project_id="p", key=5, name="edge", admin_state_up=False,
               interfaces=(RouterInterface("o", "n"),),
               external_gateways=(ExternalGateway("g", "x", "fa:16:3e:00:00:09", (FixedIP("s", "203.0.113.5"),)),),
               enable_snat=False, routes=(HostRoute("10.1.0.0/16", "10.0.0.2"),), distributed=True, ha=True,
               availability_zone_hints=("z",), enable_default_route_ecmp=True, enable_default_route_bfd=True,
               qos_policy_id="q"),
        b'{"schema":1,"kind":"router","id":"r","version":2,"project_id":"p","key":5,"name":"edge",'
        b'"admin_state_up":false,"interfaces":[["o","n"]],'
        b'"external_gateways":[["g","x","fa:16:3e:00:00:09",[["s","203.0.113.5"]]]],"enable_snat":false,'
        b'"routes":[["10.1.0.0/16","10.0.0.2"]],"distributed":true,"ha":true,"availability_zone_hints":["z"],'
        b'"enable_default_route_ecmp":true,"enable_default_route_bfd":true,"qos_policy_id":"q"}',
    ),
    (
        FloatingIP(id="f", version=3, project_id="p", key=6, floating_network_id="x",
                   floating_ip_address="203.0.113.9", floating_port_id="fp", fixed_port_id="o",
                   fixed_ip_address="10.0.0.5", router_id="r", qos_policy_id="q"),
        b'{"schema":1,"kind":"floatingip","id":"f","version":3,"project_id":"p","key":6,"floating_network_id":"x",'
        b'"floating_ip_address":"203.0.113.9","floating_port_id":"fp","fixed_port_id":"o",'
        b'"fixed_ip_address":"10.0.0.5","router_id":"r","qos_policy_id":"q"}',
    ),
    (
        PortForwarding(id="w", version=1, key=8, floatingip_id="f", protocol="tcp", external_port_range=(80, 81),
                       internal_port_id="o", internal_ip_address="10.0.0.5", internal_port_range=(8080, 8081)),
        b'{"schema":1,"kind":"port_forwarding","id":"w","version":1,"key":8,"floatingip_id":"f","protocol":"tcp",'
        b'"external_port_range":[80,81],"internal_port_id":"o","internal_ip_address":"10.0.0.5",'
        b'"internal_port_range":[8080,8081]}',
    ),
    (
        SecurityGroup(id="g", version=7, project_id="p", key=9, name="web", stateful=False, shared=True,
                      rules=(SecurityGroupRule("u", "ingress", "IPv4", "tcp", 80, 81, None, None, "a"),)),
        b'{"schema":1,"kind":"security_group","id":"g","version":7,"project_id":"p","key":9,"name":"web",'
        b'"stateful":false,"shared":true,"rules":[["u","ingress","IPv4","tcp",80,81,null,null,"a"]]}',
    ),
    (
        AddressGroup(id="a", version=1, project_id="p", key=10, name="offices", shared=True,
                     addresses=("198.51.100.0/24",)),
        b'{"schema":1,"kind":"address_group","id":"a","version":1,"project_id":"p","key":10,"name":"offices",'
        b'"shared":true,"addresses":["198.51.100.0/24"]}',
    ),
    (
        QosPolicy(id="q", version=1, project_id="p", key=11, name="slow", shared=True,
                  bandwidth_limit_rules=(BandwidthLimitRule("1", "egress", 1000, 100),),
                  dscp_marking_rules=(DscpMarkingRule("2", 26),),
                  packet_rate_limit_rules=(PacketRateLimitRule("3", "ingress", 10, 1),),
                  minimum_bandwidth_rules=(MinimumBandwidthRule("4", "egress", 500),),
                  minimum_packet_rate_rules=(MinimumPacketRateRule("5", "any", 2),)),
        b'{"schema":1,"kind":"qos_policy","id":"q","version":1,"project_id":"p","key":11,"name":"slow",'
        b'"shared":true,"bandwidth_limit_rules":[["1","egress",1000,100]],"dscp_marking_rules":[["2",26]],'
        b'"packet_rate_limit_rules":[["3","ingress",10,1]],"minimum_bandwidth_rules":[["4","egress",500]],'
        b'"minimum_packet_rate_rules":[["5","any",2]]}',
    ),
    (
        Trunk(id="t", version=1, project_id="p", key=12, port_id="o", name="up", admin_state_up=False,
              sub_ports=(SubPort("o2", "n2", "vlan", 100),)),
        b'{"schema":1,"kind":"trunk","id":"t","version":1,"project_id":"p","key":12,"port_id":"o","name":"up",'
        b'"admin_state_up":false,"sub_ports":[["o2","n2","vlan",100]]}',
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


def test_an_array_that_a_later_release_made_longer_is_read_as_far_as_it_is_known() -> None:
    stored = (
        b'{"schema":1,"kind":"trunk","id":"t","version":1,"key":1,"port_id":"o","sub_ports":[["a","n","vlan",1,"x"]]}'
    )
    trunk = decode("k", stored)
    assert isinstance(trunk, Trunk)
    assert trunk.sub_ports == (SubPort("a", "n", "vlan", 1),)


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


def _another(value: object) -> object:
    """An equal value that is another object, as one out of a database or another process is."""
    match value:
        case bool() | None:
            return value
        case str():
            return "".join(list(value))
        case int():
            return int(str(value))
        case float():
            return float(repr(value))
        case tuple():
            return tuple([_another(item) for item in value])
        case _:
            return value


@pytest.mark.parametrize(("record", "frozen"), FROZEN)
def test_equal_records_give_equal_bytes_wherever_their_values_come_from(record: Record, frozen: bytes) -> None:
    fields = {name: _another(getattr(record, name)) for name in record.__struct_fields__}
    assert encode(type(record)(**fields)) == frozen


@pytest.mark.parametrize("kind", NORTHBOUND)
def test_value_that_is_decoded_and_encoded_again_is_what_it_was_or_canonical(kind: type[Record]) -> None:
    record = next(record for record, _ in FROZEN if type(record) is kind)
    spelled_out = msgspec.json.encode({"schema": 1, "kind": kind.kind, **msgspec.to_builtins(_whole(record))})
    assert encode(decode("k", spelled_out)) == encode(record)


def _whole(record: Record) -> dict[str, object]:
    """Every field, those at their default too."""
    return {name: getattr(record, name) for name in record.__struct_fields__}
