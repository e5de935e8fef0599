"""OpenFlow 1.5 with the Nicira extensions Open vSwitch speaks: values and bytes, no I/O."""
