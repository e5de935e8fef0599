"""Sharing strings changes no record."""

from __future__ import annotations

from flowloom.model.codec import decode, encode
from flowloom.model.records import FixedIP, Network, Port, Subnet
from flowloom.model.sharing import share


def port(n: int) -> Port:
    return Port(
        id=f"p{n}", version=1, key=n, network_id="network-1", mac_address="fa:16:3e:00:00:01", project_id="project",
        host="host-1", device_owner="compute:nova", fixed_ips=(FixedIP("subnet-1", f"10.0.0.{n}"),),
        security_group_ids=("group-1",),
    )  # fmt: skip


def test_equal_references_become_one_string_and_the_records_stay_equal() -> None:
    one, other = (decode("k", encode(port(n)), "port") for n in (1, 2))
    assert isinstance(one, Port)
    assert isinstance(other, Port)
    assert one.network_id is not other.network_id
    for record in (one, other):
        share(record)
    assert (one, other) == (port(1), port(2))
    for field in ("network_id", "project_id", "host", "device_owner"):
        assert getattr(one, field) is getattr(other, field)
    assert one.fixed_ips[0].subnet_id is other.fixed_ips[0].subnet_id
    assert one.security_group_ids[0] is other.security_group_ids[0]


def test_records_without_shared_references_are_left_as_they_are() -> None:
    for record in (Network(id="n", version=1, key=1), Subnet(id="s", version=1, network_id="n", cidr="10.0.0.0/24")):
        before = encode(record)
        share(record)
        assert encode(record) == before
