"""Flows as a function of facts: incremental, and equal to the full recompute after every step."""
