"""Giving `torch.load` its `weights_only`: found on the syntax tree, spliced into the bytes, undone at will.

rewrite(folder, allow_pickle=(), write=True)
undo(folder)
"""

from bringup.steps.rewrite.calls import LoadCall
from bringup.steps.rewrite.folder import CallResult, FileResult, Rewriting, rewrite
from bringup.steps.rewrite.journal import Undone, undo

__all__ = ["CallResult", "FileResult", "LoadCall", "Rewriting", "Undone", "rewrite", "undo"]
