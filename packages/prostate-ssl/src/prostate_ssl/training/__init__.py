"""Pre-training: start reading in `trainer.py`."""
