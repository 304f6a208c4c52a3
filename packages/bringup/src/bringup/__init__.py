"""bringup: facts → findings → plan → steps → proof, for research code on new NVIDIA GPUs.

Nothing here imports torch: the package must run where torch is broken or absent.
"""
