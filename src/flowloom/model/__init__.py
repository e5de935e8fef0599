"""Northbound records: frozen values in Neutron's own vocabulary, their keys and their JSON codec."""
