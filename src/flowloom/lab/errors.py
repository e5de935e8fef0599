"""What can go wrong with a lab; each is one sentence for the person who typed the verb.

A wrong setting is a `Misconfigured` (flowloom.kernel.errors), as everywhere.
"""

from __future__ import annotations

from flowloom.kernel.errors import FlowloomError


class LabFailed(FlowloomError):
    """A part of the machine did not do what was asked; the sentence says which part and where its log is."""


class NoSuch(LabFailed):
    """The lab has nothing of that name."""
