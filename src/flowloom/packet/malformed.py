"""What a parser says about bytes that are not what they claim to be."""

from __future__ import annotations


class Malformed(ValueError):
    """The bytes (or, for option values, the text) break the format; the message names the part that does."""
