"""Programs that make a workload's demonstration data; run by a target's own Python, never imported."""
