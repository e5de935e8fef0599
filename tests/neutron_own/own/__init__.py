"""Neutron's own tests with our driver in them; see docs/neutron-own.md."""
