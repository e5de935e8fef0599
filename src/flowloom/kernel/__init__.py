"""Clock, chance, inbox, back-off, errors: the standard library only, and nothing above it."""
