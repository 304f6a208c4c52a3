"""What this package raises of its own. Wrong arguments raise what the original raises."""


class KernelCompilationError(RuntimeError):
    """A kernel could not be compiled or loaded: NVRTC is missing, too old, or the driver refused the code."""
