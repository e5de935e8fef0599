"""API workers that are killed with -9: nothing that Neutron accepted is lost on its way to the store."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from random import Random

from neutron_cloud import Cloud, Refused, addressed_network, ports_in_neutron, ports_in_store

from flowloom.testing.waiting import wait_for


def test_workers_killed_at_random_moments_lose_nothing_that_was_accepted(cloud: Cloud) -> None:
    network_id = addressed_network(cloud)
    random, accepted = Random(7), dict[str, str]()

    def create(n: int) -> None:
        try:
            port = cloud.create("port", network_id=network_id, name=f"k{n}")
        except Refused:
            return  # Its worker was killed: nobody told the client that it was accepted.
        accepted[port["id"]] = port["name"]

    kill_after = sorted(random.sample(range(5, 55), 4))
    with ThreadPoolExecutor(4) as clients:
        for done, _ in enumerate(clients.map(create, range(60))):
            if done in kill_after:
                os.kill(random.choice(cloud.workers()), signal.SIGKILL)
    cloud.start_recovery()
    wait_for(cloud.synced, 60)
    assert accepted.items() <= ports_in_neutron(cloud, network_id).items()
    assert ports_in_store(cloud, network_id) == ports_in_neutron(cloud, network_id)
