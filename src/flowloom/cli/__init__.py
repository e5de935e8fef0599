"""What people touch: the `flowloom` command."""
