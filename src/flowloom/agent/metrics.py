"""What an agent exports to Prometheus: the numbers of its status, nothing counted twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowloom.metrics import Metric, Samples

PART = "agent"

METRICS: tuple[Metric, ...] = (
    Metric("flowloom_agent_in_sync", "gauge", "1 when the records were listed completely and are followed."),
    Metric("flowloom_agent_records", "gauge", "Records of the store that this agent holds, by version."),
    Metric("flowloom_agent_bad_records", "gauge", "Records that cannot be read and are passed over (at most 1000 counted)."),
    Metric("flowloom_agent_own_records_undone", "gauge", "Records of this node that the store does not hold yet."),
    Metric("flowloom_agent_own_records_contested_total", "counter",
           "How often somebody else wrote over records of this node: two agents of one name."),
    Metric("flowloom_agent_comparisons_total", "counter", "Comparisons of versions with the store."),
    Metric("flowloom_agent_rules_waiting", "gauge", "Records and rules that are still to be worked on."),
    Metric("flowloom_agent_failed_rules", "gauge", "Rules that raised an error; their flows are withheld."),
    Metric("flowloom_agent_flows", "gauge", "Flows, groups and buckets that the switch has confirmed."),
    Metric("flowloom_agent_flow_gap", "gauge", "Flows, groups and buckets that differ between desired and installed."),
    Metric("flowloom_agent_installed_flows_total", "counter", "Flows, groups and buckets brought to the switch, deletes included."),
    Metric("flowloom_agent_refused_flows", "gauge", "Flows that the switch refuses."),
    Metric("flowloom_agent_refusals_total", "counter", "Refusals by the switch."),
    Metric("flowloom_agent_audits_total", "counter", "Comparisons of the whole switch with what it should hold."),
    Metric("flowloom_agent_drift_repaired_flows_total", "counter", "Flows found changed behind the agent's back, and put right."),
    Metric("flowloom_agent_local_ports", "gauge", "Ports that are bound to this node."),
    Metric("flowloom_agent_waiting_ports", "gauge", "Local ports whose flows the switch has not confirmed yet."),
    Metric("flowloom_agent_packets_total", "counter", "Frames that flows sent up, by what became of them.", "outcome"),
    Metric("flowloom_agent_connected", "gauge", "1 when the other side answers.", "to"),
    Metric("flowloom_agent_contact_age_seconds", "gauge", "Since the other side was last heard.", "to"),
    Metric("flowloom_agent_loop_blocked_max_seconds", "gauge", "The longest turn of the loop since the cold start."),
)  # fmt: skip


def samples(status: Mapping[str, Any]) -> Samples:
    """The numbers of an answer to `status`."""
    links = {name: status[name] for name in ("store", "bus") if status[name] is not None}
    ages = {name: link["contact_seconds"] for name, link in links.items()}
    connected = {name: link["connected"] for name, link in (*links.items(), ("switch", status["switch"]),
                 ("interfaces", status["interfaces"]))}  # fmt: skip
    return {
        "flowloom_agent_in_sync": float(status["in_sync"]),
        "flowloom_agent_records": status["records"]["held"],
        "flowloom_agent_bad_records": len(status["bad_records"]),
        "flowloom_agent_own_records_undone": status["own_records_undone"],
        "flowloom_agent_own_records_contested_total": status["own_records_contested"],
        "flowloom_agent_comparisons_total": status["records"]["comparisons"],
        "flowloom_agent_rules_waiting": status["backlog"],
        "flowloom_agent_failed_rules": len(status["failures"]),
        "flowloom_agent_flows": status["switch"]["flows"],
        "flowloom_agent_flow_gap": status["gap"],
        "flowloom_agent_installed_flows_total": status["installs"],
        "flowloom_agent_refused_flows": len(status["refused"]),
        "flowloom_agent_refusals_total": status["refusals"],
        "flowloom_agent_audits_total": status["audits"],
        "flowloom_agent_drift_repaired_flows_total": status["drift_repaired"],
        "flowloom_agent_local_ports": status["ports"]["local"],
        "flowloom_agent_waiting_ports": status["ports"]["waiting"],
        "flowloom_agent_packets_total": status["packets"] | {"dropped": status["packets_dropped"]},
        "flowloom_agent_connected": {name: float(up) for name, up in connected.items()},
        "flowloom_agent_contact_age_seconds": {name: age for name, age in ages.items() if age is not None},
        "flowloom_agent_loop_blocked_max_seconds": status["loop_blocked_max_seconds"],
    }
