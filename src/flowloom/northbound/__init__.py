"""The northbound side: the contracts of store and bus, and the bookkeeping that follows them."""
