"""The Neutron side: an ML2 mechanism driver, its capture of changes, the drain to the store, recovery."""
