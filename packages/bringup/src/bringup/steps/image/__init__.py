"""A workload as a container image: one multi-stage Dockerfile, its context, its size, and the engines."""
