"""A cloud on one Linux machine, out of real parts: for the demo, the tests, the benchmarks and anyone's experiments."""
