"""Neutron's database and the northbound store kept equal: lock, drain, comparison, recovery.

Nothing here knows SQL, Neutron, threads or sockets: it works on the ports of `table` and `northbound.store`,
so the same code runs against SQLite, MariaDB, Galera, and inside the simulator.
"""
