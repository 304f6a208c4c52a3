"""Whether a checkpoint opens with `torch.load(weights_only=True)`: read from its pickle, not tried."""

from __future__ import annotations

import fnmatch
import os
import re
from pathlib import Path

from bringup.checkpoints import open_checkpoint
from bringup.errors import BringupError

_SUFFIXES = (".pt", ".pth", ".ckpt", ".model", ".bin", ".pkl", ".pickle", ".tar", ".th", ".t7")
_MOST_FILES = 2_000
_MOST_MATCHES = 20
# What the weights-only unpickler of PyTorch 2.0 and later takes, with nothing added by the program
# (torch/_weights_only_unpickler.py). Storages and dtypes by their form.
_ALLOWED = frozenset(
    (
        "collections.OrderedDict",
        "collections.Counter",
        "torch.nn.parameter.Parameter",
        "torch.serialization._get_layout",
        "torch.Size",
        "torch.Tensor",
        "torch.device",
        "_codecs.encode",
        "builtins.bytearray",
        "builtins.set",
        "builtins.complex",
        "torch._tensor._rebuild_from_type_v2",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._utils._rebuild_qtensor",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_sparse_tensor",
        "torch._utils._rebuild_meta_tensor_no_storage",
        "torch._utils._rebuild_nested_tensor",
        "torch._utils._rebuild_wrapper_subclass",
        "torch._utils._rebuild_device_tensor_from_numpy",
        "torch._utils._rebuild_device_tensor_from_cpu_tensor",
    )
)
_STORAGES_AND_DTYPES = re.compile(
    r"torch\.(?:cuda\.|sparse\.|cuda\.sparse\.)?(?:[A-Z]\w*(?:Storage|Tensor)"
    r"|b?float\d\w*|u?q?u?int\d+(?:x\d)?|complex\d+|bool|double|float|half|long|short|int|per_(?:tensor|channel)_\w+)"
    r"|torch\.storage\.(?:TypedStorage|UntypedStorage|_TypedStorage|_UntypedStorage)"
)


def needs_more(path: Path) -> str | None:
    """The first name in the pickle that weights-only loading refuses, "TorchScript" for such an archive.

    None: the file opens with `weights_only=True`. A file that cannot be read counts as not known.

    Raises:
        BringupError: `checkpoint-…`: what the file is instead.
    """
    with open_checkpoint(path) as checkpoint:
        if checkpoint.format == "torchscript":
            return "TorchScript"
        for use in checkpoint.globals:
            dotted = f"{use.module}.{use.name}".replace("__builtin__.", "builtins.")
            if dotted not in _ALLOWED and not _STORAGES_AND_DTYPES.fullmatch(dotted):
                return dotted
    return None


class Checkpoints:
    """The files below a folder that may be checkpoints, each read at most once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: list[str] | None = None
        self._known: dict[Path, str | None] = {}

    def _listed(self) -> list[str]:
        if self._files is None:
            self._files = []
            for folder, names, files in os.walk(self._root):
                names[:] = sorted(name for name in names if not name.startswith("."))
                inside = Path(folder)
                wanted = (inside / name for name in sorted(files) if name.lower().endswith(_SUFFIXES))
                self._files += [path.relative_to(self._root).as_posix() for path in wanted]
                if len(self._files) > _MOST_FILES:
                    break
        return self._files

    def matching(self, pattern: str, source: Path) -> list[Path]:
        """Files that a call in `source` with this glob may open: named exactly, or found below the root."""
        if not re.search(r"[*?[]", pattern):
            named = Path(pattern).expanduser()
            places = (named,) if named.is_absolute() else (source.parent / named, self._root / named)
            exact = [place for place in places if place.is_file()]
            if exact:
                return exact[:1]
        tail = re.sub(r"^(?:[*]/|[.]{0,2}/)+", "", pattern)
        found = (file for file in self._listed() if fnmatch.fnmatchcase("/" + file, "*/" + tail))
        return [self._root / file for file in list(found)[:_MOST_MATCHES]]

    def refused(self, pattern: str, source: Path) -> tuple[Path, str] | None:
        """The first file that a call may open and weights-only loading refuses, and the name it refuses."""
        for path in self.matching(pattern, source):
            if path not in self._known:
                try:
                    self._known[path] = needs_more(path)
                except BringupError:
                    self._known[path] = None  # No checkpoint after all, or a broken one: nothing is known.
            name = self._known[path]
            if name is not None:
                return path, name
        return None
