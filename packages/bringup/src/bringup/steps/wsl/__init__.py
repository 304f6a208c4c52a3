"""WSL2's share of the Windows host: measured, advised, and written into `.wslconfig`."""
