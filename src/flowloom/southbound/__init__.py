"""The southbound side: the contracts of switch and interfaces, and the ledger of desired and installed."""
