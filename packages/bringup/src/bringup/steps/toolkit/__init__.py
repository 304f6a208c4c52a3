"""CUDA toolkits in user space: from wheels into a folder of our own or an environment, and out again."""
