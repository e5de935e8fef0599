"""Frames as frozen values and bytes: strict parsers that raise Malformed and nothing else, and their inverses.

Addresses are integers (a MAC of 48 bits, an IPv4 address of 32, an IPv6 address of 128): they compare, mask
and pack fast, and the text forms are for people (`mac_text`, `ipv4_text`).
"""
