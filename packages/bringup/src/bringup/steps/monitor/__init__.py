"""What the GPUs and the host are doing now, sample by sample, and their rows in a CSV file."""
