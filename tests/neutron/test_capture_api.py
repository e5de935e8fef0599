"""Every operation of a real Neutron API bumps exactly the rows of the objects it changes, and the store says so too."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from neutron_cloud import DEPLOYMENT, Cloud, running_cloud
from neutron_records import Ref, expected, objects, stripped

from flowloom.model.codec import decode
from flowloom.model.keys import deployment_prefix, parse_key
from flowloom.model.records import Record
from flowloom.neutron.deploy import (
    EXTENSION_DRIVERS,
    SERVICE_PLUGINS,
    UNWIRED_EXTENSION_DRIVERS,
    UNWIRED_SERVICE_PLUGINS,
)
from flowloom.testing.waiting import wait_for

T = TypeVar("T")
Json = dict[str, Any]

PROJECT = "fake_project_id"


@dataclass
class Watched:
    """A Neutron API whose sync rows and store are looked at before and after each operation."""

    cloud: Cloud

    def post(self, path: str, name: str, /, **attributes: Any) -> Json:
        made: Json = self.cloud.call("POST", path, {name: attributes})[name]
        return made

    def put(self, path: str, name: str, /, **attributes: Any) -> Json:
        made: Json = self.cloud.call("PUT", path, {name: attributes})[name]
        return made

    def as_nova(self, method: str, path: str, body: str | None) -> None:
        """A call that Neutron grants to other services only."""
        connection = http.client.HTTPConnection(self.cloud.deployment.api_url.removeprefix("http://"), timeout=60)
        headers = {"Content-Type": "application/json", "X-Roles": "service"}
        with contextlib.closing(connection):
            connection.request(method, f"/v2.0/{path}", body, headers)
            answer = connection.getresponse()
            assert answer.status < 300, answer.read()

    def versions(self) -> dict[Ref, int]:
        return {ref: row.version for ref, row in self.cloud.sql.rows().items()}

    def bumped_by(self, action: Callable[[], T]) -> tuple[T, set[Ref]]:
        """What the action gives back, and whose versions it raised; their records then say what the API says."""
        before = self.versions()
        result = action()
        bumped = {ref for ref, version in self.versions().items() if before.get(ref) != version}
        assert wait_for(self.cloud.synced, 60), [
            (ref, row.last_error) for ref, row in self.cloud.sql.rows().items() if row.version != row.synced_version
        ]
        stored = self.stored()
        for ref in bumped:
            assert stripped(stored.get(ref)) == expected(self.cloud, ref)
        return result, bumped

    def stored(self) -> dict[Ref, Record | None]:
        with self.cloud.store() as store:
            entries = store.read(deployment_prefix(DEPLOYMENT)).entries
        found: dict[Ref, Record | None] = {}
        for entry in entries:
            key = parse_key(entry.key)
            ref = key.kind, key.id
            assert ref not in found, "an object has one record in one place"
            found[ref] = None if entry.value is None else decode(entry.key, entry.value)
        return found

    def audit(self) -> None:
        """Everything: the API and the store agree."""
        there = objects(self.cloud)
        assert wait_for(self.cloud.synced, 60)
        stored = {ref: stripped(record) for ref, record in self.stored().items() if record is not None}
        assert stored == {ref: expected(self.cloud, ref) for ref in there}

    def network(self, **attributes: Any) -> str:
        return str(self.post("networks", "network", **attributes)["id"])

    def subnet(self, network_id: str, cidr: str, **attributes: Any) -> str:
        made = self.post("subnets", "subnet", network_id=network_id, ip_version=4, cidr=cidr, **attributes)
        return str(made["id"])

    def port(self, network_id: str, **attributes: Any) -> str:
        return str(self.post("ports", "port", network_id=network_id, **attributes)["id"])

    def group(self, **attributes: Any) -> str:
        return str(self.post("security-groups", "security_group", **attributes)["id"])

    def policy(self, **attributes: Any) -> str:
        return str(self.post("qos/policies", "policy", name="q", **attributes)["id"])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, schema_template: Path) -> Iterator[Watched]:
    with running_cloud(
        tmp_path_factory.mktemp("cloud"),
        schema_template,
        announce_unwired=True,
        service_plugins=(*SERVICE_PLUGINS, *UNWIRED_SERVICE_PLUGINS),
        extension_drivers=(*EXTENSION_DRIVERS, *UNWIRED_EXTENSION_DRIVERS),
    ) as cloud:
        cloud.call("GET", "security-groups")  # Makes the project's default group.
        watched = Watched(cloud)
        yield watched
        watched.audit()
        assert "passed the capture" not in cloud.log()


@pytest.fixture
def api(running: Watched) -> Watched:
    return running


def refs(**ids: str) -> set[Ref]:
    return set(ids.items())


def test_networks(api: Watched) -> None:
    made, bumped = api.bumped_by(lambda: api.network(name="n", dns_domain="x.test."))
    path = f"networks/{made}"
    assert bumped == refs(network=made)
    for change in ({"name": "m"}, {"mtu": 1300}, {"router:external": True}, {"shared": True}, {"shared": False}):
        assert api.bumped_by(lambda change=change: api.put(path, "network", **change))[1] == refs(network=made)  # type: ignore[misc]
    assert api.bumped_by(lambda: api.put(path, "network", description="d"))[1] == set()
    assert api.bumped_by(lambda: api.put(path, "network", port_security_enabled=False))[1] == set()
    assert api.bumped_by(lambda: api.cloud.call("PUT", f"{path}/tags", {"tags": ["t"]}))[1] == set()
    assert api.bumped_by(lambda: api.cloud.call("DELETE", path))[1] == refs(network=made)


@pytest.mark.parametrize("target", ["*", "1" * 32])
@pytest.mark.parametrize(
    ("kind", "path", "name"),
    [
        ("network", "networks", "network"),
        ("security_group", "security-groups", "security_group"),
        ("address_group", "address-groups", "address_group"),
        ("qos_policy", "qos/policies", "policy"),
    ],
)
def test_sharing(api: Watched, kind: str, path: str, name: str, target: str) -> None:
    made = api.post(path, name, name="shared")["id"]
    share, bumped = api.bumped_by(
        lambda: api.post(
            "rbac-policies",
            "rbac_policy",
            object_type=kind,
            object_id=made,
            action="access_as_shared",
            target_tenant=target,
        )["id"]
    )
    assert bumped == {(kind, made)}
    entry = f"rbac-policies/{share}"
    assert api.bumped_by(lambda: api.put(entry, "rbac_policy", target_tenant="3" * 32))[1] == {(kind, made)}
    assert api.bumped_by(lambda: api.cloud.call("DELETE", entry))[1] == {(kind, made)}
    assert api.bumped_by(lambda: api.cloud.call("DELETE", f"{path}/{made}"))[1] == {(kind, made)}


def test_segments(api: Watched) -> None:
    network = api.network(segments=[{"provider:network_type": "geneve"}, {"provider:network_type": "geneve"}])
    api.bumped_by(lambda: None)
    segment, bumped = api.bumped_by(
        lambda: api.post("segments", "segment", network_id=network, network_type="geneve")["id"]
    )
    assert bumped == refs(network=network)
    assert api.bumped_by(lambda: api.put(f"segments/{segment}", "segment", description="d"))[1] == set()
    subnet, bumped = api.bumped_by(lambda: api.subnet(network, "10.3.0.0/24", segment_id=segment))
    assert bumped == refs(subnet=subnet)
    api.cloud.call("DELETE", f"subnets/{subnet}")
    assert api.bumped_by(lambda: api.cloud.call("DELETE", f"segments/{segment}"))[1] == refs(network=network)


def test_subnets(api: Watched) -> None:
    network = api.network()
    subnet, bumped = api.bumped_by(
        lambda: api.subnet(
            network,
            "10.1.0.0/24",
            dns_nameservers=["9.9.9.9", "8.8.8.8"],
            host_routes=[{"destination": "10.9.0.0/16", "nexthop": "10.1.0.9"}],
            service_types=["network:floatingip"],
        )
    )
    assert bumped == refs(subnet=subnet)
    path = f"subnets/{subnet}"
    for change in (
        {"dns_nameservers": ["8.8.8.8", "1.1.1.1"]},
        {"host_routes": []},
        {"gateway_ip": None},
        {"enable_dhcp": False},
        {"service_types": []},
    ):
        assert api.bumped_by(lambda change=change: api.put(path, "subnet", **change))[1] == refs(subnet=subnet)  # type: ignore[misc]
    assert api.bumped_by(lambda: api.cloud.call("DELETE", path))[1] == refs(subnet=subnet)
    subnet = api.subnet(network, "10.1.0.0/24")
    assert api.bumped_by(lambda: api.cloud.call("DELETE", f"networks/{network}"))[1] == refs(
        network=network, subnet=subnet
    )


def test_ports(api: Watched) -> None:
    network = api.network()
    subnet = api.subnet(network, "10.2.0.0/24")
    group, policy = api.group(name="g"), api.policy()
    port, bumped = api.bumped_by(lambda: api.port(network, dns_name="vm"))
    assert bumped == refs(port=port)
    path = f"ports/{port}"
    for change in (
        {"name": "p"},
        {"mac_address": "fa:16:3e:11:22:33"},
        {"fixed_ips": [{"subnet_id": subnet}, {"subnet_id": subnet, "ip_address": "10.2.0.77"}]},
        {"fixed_ips": [{"ip_address": "10.2.0.77"}]},
        {"allowed_address_pairs": [{"ip_address": "10.2.0.99"}]},
        {"extra_dhcp_opts": [{"opt_name": "mtu", "opt_value": "1400"}]},
        {"extra_dhcp_opts": [{"opt_name": "mtu", "opt_value": None}]},
        {"security_groups": [group]},
        {"security_groups": []},
        {"qos_policy_id": policy},
        {"qos_policy_id": None},
        {"allowed_address_pairs": [], "port_security_enabled": False},
        {"dns_name": "other"},
        {"device_id": "d", "device_owner": "compute:x", "binding:host_id": "h1"},
        {"admin_state_up": False},
    ):
        assert api.bumped_by(lambda change=change: api.put(path, "port", **change))[1] == refs(port=port)  # type: ignore[misc]
    assert api.bumped_by(lambda: api.put(path, "port", description="d"))[1] == set()
    for method, where, body in (
        ("POST", "", '{"binding": {"host": "h2"}}'),
        ("PUT", "/h2/activate", None),
        ("DELETE", "/h1", None),
    ):
        url = f"{path}/bindings{where}"
        done = api.bumped_by(lambda method=method, url=url, body=body: api.as_nova(method, url, body))  # type: ignore[misc]
        assert done[1] == refs(port=port), url
    assert api.bumped_by(lambda: api.cloud.call("DELETE", path))[1] == refs(port=port)


def test_many_ports_at_once(api: Watched) -> None:
    network = api.network()
    api.subnet(network, "10.2.0.0/24")
    wanted = {"ports": [{"network_id": network, "name": str(n)} for n in range(3)]}
    made, bumped = api.bumped_by(lambda: api.cloud.call("POST", "ports", wanted)["ports"])
    assert bumped == {("port", each["id"]) for each in made}


@dataclass
class Routed:
    """An external network with two subnets, a network inside with a port, and a router between them."""

    external: str
    outside: str
    network: str
    subnet: str
    port: str
    router: str


@pytest.fixture
def routed(api: Watched) -> Iterator[Routed]:
    external = api.network(name="ext", **{"router:external": True})
    outside = api.subnet(external, "203.0.113.0/24")
    network = api.network(name="in")
    subnet = api.subnet(network, "10.5.0.0/24")
    router = api.post("routers", "router", name="r", external_gateway_info={"network_id": external})["id"]
    api.cloud.call("PUT", f"routers/{router}/add_router_interface", {"subnet_id": subnet})
    port = api.port(network)
    yield Routed(external, outside, network, subnet, port, router)
    for floating_ip in api.cloud.call("GET", "floatingips")["floatingips"]:
        api.cloud.call("DELETE", f"floatingips/{floating_ip['id']}")
    api.put(f"routers/{router}", "router", external_gateway_info={}, routes=[])
    for each in api.cloud.call("GET", f"ports?device_id={router}")["ports"]:
        api.cloud.call("PUT", f"routers/{router}/remove_router_interface", {"port_id": each["id"]})
    api.cloud.call("DELETE", f"routers/{router}")
    for each in (network, external):
        for left in api.cloud.call("GET", f"ports?network_id={each}")["ports"]:
            api.cloud.call("DELETE", f"ports/{left['id']}")
        api.cloud.call("DELETE", f"networks/{each}")


def test_routers(api: Watched, routed: Routed) -> None:
    router, bumped = api.bumped_by(lambda: api.post("routers", "router", name="r")["id"])
    assert bumped == refs(router=router)
    path = f"routers/{router}"
    for change in ({"name": "s"}, {"admin_state_up": False}, {"enable_default_route_ecmp": True}):
        assert api.bumped_by(lambda change=change: api.put(path, "router", **change))[1] == refs(router=router)  # type: ignore[misc]
    assert api.bumped_by(lambda: api.put(path, "router", description="d"))[1] == set()
    assert api.bumped_by(lambda: api.cloud.call("DELETE", path))[1] == refs(router=router)


def test_zones_of_routers(api: Watched) -> None:
    with api.cloud.sql.writing.begin() as connection:
        connection.execute(
            sa.text(
                "insert into agents (id, agent_type, binary, topic, host, availability_zone, admin_state_up, created_at,"
                " started_at, heartbeat_timestamp, configurations, load) values ('00000000-0000-0000-0000-00000000000a', 'L3 agent', 'x', 'x', 'h', 'z1',"
                " 1, '2026-01-01', '2026-01-01', '2026-01-01', '{}', 0)"
            )
        )
    router, bumped = api.bumped_by(
        lambda: api.post("routers", "router", name="r", availability_zone_hints=["z1"])["id"]
    )
    assert bumped == refs(router=router)
    record = api.stored()["router", router]
    assert getattr(record, "availability_zone_hints", None) == ("z1",)


def test_router_interfaces(api: Watched, routed: Routed) -> None:
    other = api.network()
    subnet = api.subnet(other, "10.6.0.0/24")
    path = f"routers/{routed.router}"
    made, bumped = api.bumped_by(
        lambda: api.cloud.call("PUT", f"{path}/add_router_interface", {"subnet_id": subnet})["port_id"]
    )
    assert bumped == refs(router=routed.router, port=made)
    gone = {"subnet_id": subnet}
    assert api.bumped_by(lambda: api.cloud.call("PUT", f"{path}/remove_router_interface", gone))[1] == bumped
    port = api.port(other)
    by_port = {"port_id": port}
    assert api.bumped_by(lambda: api.cloud.call("PUT", f"{path}/add_router_interface", by_port))[1] == refs(
        router=routed.router, port=port
    )
    assert api.bumped_by(lambda: api.cloud.call("PUT", f"{path}/remove_router_interface", by_port))[1] == refs(
        router=routed.router, port=port
    )


def gateway_port(api: Watched, router: str) -> str:
    (port,) = api.cloud.call("GET", f"ports?device_id={router}&device_owner=network:router_gateway")["ports"]
    return str(port["id"])


def test_gateways(api: Watched, routed: Routed) -> None:
    path, policy = f"routers/{routed.router}", api.policy()
    port = gateway_port(api, routed.router)
    info = {"network_id": routed.external, "external_fixed_ips": [{"subnet_id": routed.outside}]}
    itself, both = refs(router=routed.router), refs(router=routed.router, port=port)
    for change, bumps in (
        (info | {"enable_snat": False}, itself),
        (info | {"qos_policy_id": policy}, itself),
        (info | {"qos_policy_id": None}, itself),
        (info | {"external_fixed_ips": [{"ip_address": "203.0.113.200"}]}, both),
        ({}, both),
    ):
        done = api.bumped_by(lambda change=change: api.put(path, "router", external_gateway_info=change))  # type: ignore[misc]
        assert done[1] == bumps
    assert api.bumped_by(lambda: api.put(path, "router", external_gateway_info=info))[1] == refs(
        router=routed.router, port=gateway_port(api, routed.router)
    )


def test_a_change_of_a_gateway_port_itself_reaches_its_router(api: Watched, routed: Routed) -> None:
    port = gateway_port(api, routed.router)
    both = refs(router=routed.router, port=port)
    addresses = [{"ip_address": "203.0.113.210"}, {"ip_address": "203.0.113.211"}]
    assert api.bumped_by(lambda: api.put(f"ports/{port}", "port", fixed_ips=addresses))[1] == both


def test_several_gateways(api: Watched, routed: Routed) -> None:
    second = api.network(name="ext2", **{"router:external": True})
    api.subnet(second, "198.51.100.0/24")
    path = f"routers/{routed.router}"
    body = {"router": {"external_gateways": [{"network_id": second}]}}
    _, bumped = api.bumped_by(lambda: api.cloud.call("PUT", f"{path}/add_external_gateways", body))
    (port,) = api.cloud.call("GET", f"ports?network_id={second}")["ports"]
    assert bumped == refs(router=routed.router, port=port["id"])
    assert api.bumped_by(lambda: api.cloud.call("PUT", f"{path}/remove_external_gateways", body))[1] == bumped


def test_extra_routes(api: Watched, routed: Routed) -> None:
    path, itself = f"routers/{routed.router}", refs(router=routed.router)
    one = {"destination": "10.50.0.0/16", "nexthop": "10.5.0.50"}
    two = {"destination": "10.60.0.0/16", "nexthop": "10.5.0.60"}
    assert api.bumped_by(lambda: api.put(path, "router", routes=[one]))[1] == itself
    for act, route in (("add", two), ("remove", one)):
        body = {"router": {"routes": [route]}}
        done = api.bumped_by(lambda act=act, body=body: api.cloud.call("PUT", f"{path}/{act}_extraroutes", body))  # type: ignore[misc]
        assert done[1] == itself
    assert api.bumped_by(lambda: api.put(path, "router", routes=[]))[1] == itself


def floating_port(api: Watched, floating_ip: str) -> str:
    (port,) = api.cloud.call("GET", f"ports?device_id={floating_ip}")["ports"]
    return str(port["id"])


def test_floating_ips(api: Watched, routed: Routed) -> None:
    policy = api.policy()
    made, bumped = api.bumped_by(
        lambda: api.post("floatingips", "floatingip", floating_network_id=routed.external)["id"]
    )
    port, itself = floating_port(api, made), refs(floatingip=made)
    assert bumped == itself | refs(port=port)
    second = api.port(routed.network)
    for change in (
        {"port_id": routed.port},
        {"port_id": second},
        {"port_id": None},
        {"qos_policy_id": policy},
        {"qos_policy_id": None},
    ):
        done = api.bumped_by(lambda change=change: api.put(f"floatingips/{made}", "floatingip", **change))  # type: ignore[misc]
        assert done[1] == itself
    assert api.bumped_by(lambda: api.put(f"floatingips/{made}", "floatingip", description="d"))[1] == set()
    api.put(f"floatingips/{made}", "floatingip", port_id=second)
    assert api.bumped_by(lambda: api.cloud.call("DELETE", f"ports/{second}"))[1] == itself | refs(port=second)
    assert api.bumped_by(lambda: api.cloud.call("DELETE", f"floatingips/{made}"))[1] == itself | refs(port=port)


def test_port_forwardings(api: Watched, routed: Routed) -> None:
    floating_ip = api.post("floatingips", "floatingip", floating_network_id=routed.external)["id"]
    path = f"floatingips/{floating_ip}/port_forwardings"
    address = api.cloud.show("port", routed.port)["fixed_ips"][0]["ip_address"]

    def forward(port: int) -> str:
        made = api.post(
            path,
            "port_forwarding",
            protocol="tcp",
            internal_port_id=routed.port,
            internal_ip_address=address,
            internal_port=port,
            external_port=port + 1,
        )
        return str(made["id"])

    first, bumped = api.bumped_by(lambda: forward(80))
    assert bumped == refs(port_forwarding=first, floatingip=floating_ip)  # The router's id is written on its address.
    second, bumped = api.bumped_by(lambda: forward(90))
    assert bumped == refs(port_forwarding=second)
    change = {"internal_port_range": "100:101", "external_port_range": "200:201", "protocol": "udp"}
    done = api.bumped_by(lambda: api.put(f"{path}/{first}", "port_forwarding", **change))
    assert done[1] == refs(port_forwarding=first)
    assert api.bumped_by(lambda: api.put(f"{path}/{first}", "port_forwarding", description="d"))[1] == set()
    assert api.bumped_by(lambda: api.cloud.call("DELETE", f"{path}/{first}"))[1] == refs(port_forwarding=first)
    done = api.bumped_by(lambda: api.cloud.call("DELETE", f"ports/{routed.port}"))
    assert done[1] == refs(port=routed.port, port_forwarding=second, floatingip=floating_ip)


def test_security_groups(api: Watched) -> None:
    made, bumped = api.bumped_by(lambda: api.group(name="g"))
    assert bumped == refs(security_group=made)
    other, addresses = api.group(name="other"), api.post("address-groups", "address_group", name="a")["id"]
    path, itself = f"security-groups/{made}", refs(security_group=made)
    for change in ({"name": "h"}, {"stateful": False}):
        assert api.bumped_by(lambda change=change: api.put(path, "security_group", **change))[1] == itself  # type: ignore[misc]
    assert api.bumped_by(lambda: api.put(path, "security_group", description="d"))[1] == set()
    rules = []
    for remote in (
        {},
        {"remote_ip_prefix": "10.0.0.0/8"},
        {"remote_group_id": other},
        {"remote_address_group_id": addresses},
    ):
        wanted = {"security_group_id": made, "direction": "ingress", "protocol": "tcp", "port_range_min": 80}
        wanted |= {"port_range_max": 80, **remote}
        rule, bumped = api.bumped_by(
            lambda wanted=wanted: api.post("security-group-rules", "security_group_rule", **wanted)["id"]  # type: ignore[misc]
        )
        assert bumped == itself
        rules.append(rule)
    gone = api.bumped_by(lambda: api.cloud.call("DELETE", f"security-group-rules/{rules[0]}"))
    assert gone[1] == itself
    # The rule that names the other group goes with it.
    gone = api.bumped_by(lambda: api.cloud.call("DELETE", f"security-groups/{other}"))
    assert gone[1] == itself | refs(security_group=other)
    assert api.bumped_by(lambda: api.cloud.call("DELETE", path))[1] == itself


def test_many_rules_at_once(api: Watched) -> None:
    group = api.group(name="g")
    wanted = [
        {"security_group_id": group, "direction": "egress", "protocol": "udp", "port_range_min": n, "port_range_max": n}
        for n in range(1, 4)
    ]
    done = api.bumped_by(lambda: api.cloud.call("POST", "security-group-rules", {"security_group_rules": wanted}))
    assert done[1] == refs(security_group=group)


def test_address_groups(api: Watched) -> None:
    made, bumped = api.bumped_by(
        lambda: api.post("address-groups", "address_group", name="a", addresses=["10.0.0.0/8"])["id"]
    )
    path, itself = f"address-groups/{made}", refs(address_group=made)
    assert bumped == itself
    assert api.bumped_by(lambda: api.put(path, "address_group", name="b"))[1] == itself
    for act in ("add", "remove"):
        body = {"addresses": ["192.0.2.1/32", "192.0.2.2/32"]}
        done = api.bumped_by(lambda act=act, body=body: api.cloud.call("PUT", f"{path}/{act}_addresses", body))  # type: ignore[misc]
        assert done[1] == itself
    assert api.bumped_by(lambda: api.cloud.call("DELETE", path))[1] == itself


def test_qos_policies(api: Watched) -> None:
    made, bumped = api.bumped_by(api.policy)
    path, itself = f"qos/policies/{made}", refs(qos_policy=made)
    assert bumped == itself
    assert api.bumped_by(lambda: api.put(path, "policy", name="r"))[1] == itself
    assert api.bumped_by(lambda: api.put(path, "policy", is_default=True))[1] == set()
    for kind, attributes, change in (
        ("bandwidth_limit", {"max_kbps": 1000, "max_burst_kbps": 100}, {"direction": "ingress"}),
        ("dscp_marking", {"dscp_mark": 26}, {"dscp_mark": 30}),
        ("packet_rate_limit", {"max_kpps": 10}, {"max_kpps": 11}),
        ("minimum_bandwidth", {"min_kbps": 10}, {"min_kbps": 20}),
        ("minimum_packet_rate", {"min_kpps": 10, "direction": "any"}, {"min_kpps": 20}),
    ):
        rule, bumped = api.bumped_by(
            lambda kind=kind, attributes=attributes: api.post(f"{path}/{kind}_rules", f"{kind}_rule", **attributes)[
                "id"
            ]  # type: ignore[misc]
        )
        assert bumped == itself, kind
        where = f"{path}/{kind}_rules/{rule}"
        done = api.bumped_by(lambda where=where, kind=kind, change=change: api.put(where, f"{kind}_rule", **change))  # type: ignore[misc]
        assert done[1] == itself, kind
        if kind != "dscp_marking":
            assert api.bumped_by(lambda where=where: api.cloud.call("DELETE", where))[1] == itself, kind  # type: ignore[misc]
    network = api.network(qos_policy_id=made)
    done = api.bumped_by(lambda: api.put(f"networks/{network}", "network", qos_policy_id=None))
    assert done[1] == refs(network=network)
    assert api.bumped_by(lambda: api.cloud.call("DELETE", path))[1] == itself


def test_trunks(api: Watched) -> None:
    network, other = api.network(), api.network()
    parent, child, second = api.port(network), api.port(other), api.port(other)
    sub_port = {"port_id": child, "segmentation_type": "vlan", "segmentation_id": 100}
    made, bumped = api.bumped_by(
        lambda: api.post("trunks", "trunk", port_id=parent, name="t", sub_ports=[sub_port])["id"]
    )
    path, itself = f"trunks/{made}", refs(trunk=made)
    assert bumped - refs(port=child) == itself
    assert api.bumped_by(lambda: api.put(path, "trunk", name="u"))[1] == itself
    body = {"sub_ports": [{"port_id": second, "segmentation_type": "vlan", "segmentation_id": 101}]}
    _, bumped = api.bumped_by(lambda: api.cloud.call("PUT", f"{path}/add_subports", body))
    assert bumped - refs(port=second) == itself
    gone = {"sub_ports": [{"port_id": second}]}
    _, bumped = api.bumped_by(lambda: api.cloud.call("PUT", f"{path}/remove_subports", gone))
    assert bumped - refs(port=second) == itself
    assert api.bumped_by(lambda: api.cloud.call("PUT", f"{path}/tags", {"tags": ["t"]}))[1] == set()
    _, bumped = api.bumped_by(lambda: api.cloud.call("DELETE", path))
    assert bumped - refs(port=child) == itself
