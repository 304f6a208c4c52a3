"""Reading a pickled model without running it; converting and rebuilding it.

with open_checkpoint(path) as checkpoint:
    checkpoint.verdict, checkpoint.globals, checkpoint.tensors, checkpoint.tree
convert(path, folder)
"""

from bringup.checkpoints.checkpoint import Checkpoint, open_checkpoint, printable, unimportable_classes
from bringup.checkpoints.conversion import Conversion, convert, convert_all

__all__ = [
    "Checkpoint",
    "Conversion",
    "convert",
    "convert_all",
    "open_checkpoint",
    "printable",
    "unimportable_classes",
]
