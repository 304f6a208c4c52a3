"""What is here: GPUs, driver, host memory, toolkits, environments, images. Read, never imported."""
