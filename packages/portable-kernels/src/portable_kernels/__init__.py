"""Drop-in replacements for small CUDA extensions, compiled at first use for the GPU that is there."""
