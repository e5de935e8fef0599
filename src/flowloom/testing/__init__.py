"""Public conformance suites, fakes, a real switch in a directory, and the simulator."""
