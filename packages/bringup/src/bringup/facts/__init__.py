"""What is here: GPUs, driver, host memory, toolkits, Python environments, images. Read, never guessed, never imported."""
