"""A pack: everything that a workload needs from the network, in one folder that can be carried."""
