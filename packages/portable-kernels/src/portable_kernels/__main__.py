"""`python -m portable_kernels`."""

from portable_kernels.cli import app

app()
