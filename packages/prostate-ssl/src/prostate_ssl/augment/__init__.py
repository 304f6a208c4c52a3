"""Augmentation for a whole batch at once, each sample with its own parameters, on any device."""
