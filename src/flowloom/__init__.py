"""Flowloom: what Neutron accepted is what every switch does."""
