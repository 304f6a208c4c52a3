"""Self-supervised pre-training (DINO + iBOT + KoLeo) on multi-parametric prostate MRI."""
