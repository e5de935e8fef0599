"""What `flowloom port show` prints."""

from __future__ import annotations

from dataclasses import replace

from flowloom.cli.diagnosis import diagnose
from flowloom.cli.port import show
from tests.cli.test_diagnosis import ALL, CASES, NEUTRON


