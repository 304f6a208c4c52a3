"""Tasks that use the backbone: segmentation, classification, export."""
