"""`torchrun --nproc_per_node=N -m prostate_ssl.train …`: the verb `prostate-ssl train` for torchrun."""
