"""What the world offers: GPUs, toolkits, torch builds, extensions. TOML data, each row with its source."""
