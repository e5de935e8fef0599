"""Errors that say who acts next.

Drivers translate their client library's errors into these and raise them ``from`` the original.
Nothing in Flowloom decides by an error's text.
"""

from __future__ import annotations


class FlowloomError(Exception):
    """Root of every error that Flowloom raises on purpose."""


class Unavailable(FlowloomError):
    """The other side did not answer: nothing is known about the outcome.  Retry with back-off."""


class Stale(FlowloomError):
    """The other side holds something newer: the caller's knowledge is old.  Read again."""


class Rejected(FlowloomError):
    """The input itself is wrong and will be wrong again.  Name it, go on with the others."""

    def __init__(self, ref: str, why: str) -> None:
        super().__init__(f"{ref}: {why}")
        self.ref = ref
        self.why = why


class StartOver(FlowloomError):
    """A cursor cannot be resumed (log trimmed, store wiped or restored).  List again."""


class Misconfigured(FlowloomError):
    """The operator must act: one sentence with the setting's name and what to do.

    The command line prints it without a traceback and exits with 2.
    """

    def __init__(self, setting: str, why: str) -> None:
        super().__init__(f"{setting}: {why}")
        self.setting = setting
        self.why = why
