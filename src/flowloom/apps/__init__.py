"""Network functions as apps of the compiler; each unaware of every other."""
