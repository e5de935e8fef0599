"""The agent of one host: a pure core, and the shell that gives it threads, sockets and time."""
