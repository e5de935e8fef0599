"""The servers of a northbound store on the loopback: how each is configured, started, asked, and emptied.

Values and plain functions: who runs the processes (the lab, detached; tests, as children) is not their business.
"""
