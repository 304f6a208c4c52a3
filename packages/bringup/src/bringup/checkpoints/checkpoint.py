"""One checkpoint, read: what it holds, which globals it names, what its tensors are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bringup.checkpoints import formats
from bringup.checkpoints.containers import ContainerReader, Contents
from bringup.checkpoints.describe import Describer
from bringup.checkpoints.known_globals import HARMLESS
from bringup.checkpoints.layout import Layout, lay_out
from bringup.checkpoints.modules import Model, NamedTensor, Namer
from bringup.checkpoints.source import FileSlice, SourceFile
from bringup.checkpoints.verdicts import GlobalUse
from bringup.errors import BringupError


@dataclass
class Checkpoint:
    """A checkpoint whose pickle was read and not run. Its tensors are still in the file.

    Attributes:
        globals: every class and function that the pickle names, worst verdict first.
        verdict: "tensors-and-containers", "unknown-classes" or "unneeded-calls".
    """

    path: Path
    file: SourceFile
    contents: Contents
    globals: tuple[GlobalUse, ...]
    verdict: str

    @property
    def root(self) -> Any:
        """The unpickled value: containers, and records for everything else."""
        return self.contents.root

    @property
    def format(self) -> str:
        """ "zip", "torchscript", "legacy", "tar" or "pickle"."""
        return self.contents.format

    @cached_property
    def _namer(self) -> Namer:
        return Namer(self.contents)

    @property
    def model(self) -> Model | None:
        """Where the weights are, if there is one place."""
        return self._namer.model

    @cached_property
    def tensors(self) -> list[NamedTensor]:
        """All tensors by name; the model's first, in the order of its state dict."""
        with _about(self.path):
            return self._namer.run()

    @cached_property
    def layout(self) -> Layout:
        """What is stored, and how each tensor is put together."""
        with _about(self.path):
            return lay_out(self.tensors, self.file.size)

    @cached_property
    def tree(self) -> Any:
        """The whole value as JSON; see `describe`."""
        with _about(self.path):
            return Describer(self.tensors).describe(self.root)


def printable(text: str) -> str:
    """Text of a file's making, without what would steer a terminal."""
    return "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in text)


@contextlib.contextmanager
def _about(path: Path) -> Iterator[None]:
    """Errors from here on name the file."""
    try:
        yield
    except BringupError as error:
        error.parameters.setdefault("file", str(path))
        for name, value in error.parameters.items():
            error.parameters[name] = printable(value) if isinstance(value, str) else value
        raise
    except OSError as error:
        raise BringupError("checkpoint-unreadable", file=path, text=error.strerror or error) from error


@contextlib.contextmanager
def open_checkpoint(path: Path) -> Iterator[Checkpoint]:
    """Read a checkpoint without running it; the file is closed at the end of the block.

    Raises:
        BringupError: `checkpoint-…`, naming what is wrong with the file or what it is instead.
    """
    with _about(path):
        formats.open_regular(path)
        with SourceFile(path) as file:
            reader = ContainerReader()
            contents = reader.read(FileSlice(file, 0, file.size))
            yield Checkpoint(path, file, contents, reader.log.sorted, reader.log.verdict)


def unimportable_classes(checkpoint: Checkpoint, importable_modules: Iterable[str]) -> tuple[str, ...]:
    """Dotted names of the classes and functions that `torch.load` would fail to import.

    Args:
        importable_modules: top-level module names of the environment, such as "torch".
    """
    known = frozenset(importable_modules) | {"builtins", "collections", "copyreg", "_codecs"}
    missing = {
        f"{use.module}.{use.name}"
        for use in checkpoint.globals
        if use.module and use.module.split(".")[0] not in known and "attribute" not in use.uses
    }
    return tuple(sorted(missing - HARMLESS))
