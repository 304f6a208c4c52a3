"""Which bytes are stored under which name, and how each tensor is put together from them.

Safetensors knows row-major tensors that share nothing. So:

- a tensor that overlaps no other is stored under its own name, made contiguous;
- the model's tensors are all stored under their names, so that a state dict is complete, also where they
  share memory; the description says which do. The second copies may be as large as the checkpoint;
- other tensors that are the same memory as one before are stored once; those that overlap are views of the
  one that covers them all, or of their common stretch of memory under the name `FIRST:storage`;
- sparse, nested and per-channel quantised tensors are stored by parts, `NAME:values` and so on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bringup.checkpoints import limits
from bringup.checkpoints.modules import NamedTensor
from bringup.checkpoints.source import DeflatedSlice, FileSlice
from bringup.checkpoints.strided import contiguous_chunks, gather, swapped
from bringup.checkpoints.tensors import COMPONENTS_PER_BYTE, Storage, Tensor, check_within_storage


@dataclass(frozen=True)
class StoredTensor:
    """One entry of a safetensors file.

    Attributes:
        dtype, shape: as safetensors has them; `size` in bytes.
        view: what is written, in row-major order.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    view: Tensor
    in_model: bool

    def chunks(self, spilled: dict[int, FileSlice]) -> Iterator[memoryview]:
        """The bytes to write. `spilled`: inflated bytes of compressed storages by `id`."""
        storage = self.view.storage
        if self.size == 0 or storage is None or storage.base.data is None:
            return
        data = storage.base.data
        whole = spilled[id(data)] if isinstance(data, DeflatedSlice) else data
        stretch = whole.part(self.view.start, self.view.span)
        swap = self.view.element.swap_unit if storage.base.big_endian else 1
        if self.view.is_contiguous:
            yield from contiguous_chunks(stretch, swap)
        else:
            elements = gather(self.view, stretch)
            yield memoryview(elements) if swap == 1 else swapped(elements, swap)


@dataclass
class Layout:
    """All entries to store, and the description of each tensor by name."""

    stored: list[StoredTensor] = field(default_factory=list)
    descriptions: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Leaf:
    name: str
    tensor: Tensor
    in_model: bool


def lay_out(named: list[NamedTensor], repetition: int) -> Layout:
    """Decide for all tensors of a checkpoint.

    Args:
        repetition: bytes that may be written a second time under another name of the model.

    Raises:
        BringupError: `checkpoint-tensor` for a view beyond its storage.
    """
    leaves = [leaf for entry in named for leaf in _leaves(entry.name, entry.tensor, entry.in_model)]
    for leaf in leaves:
        check_within_storage(leaf.tensor)
    planner = _Planner(repetition)
    by_storage: dict[int, list[_Leaf]] = {}
    for leaf in leaves:
        if leaf.tensor.numel == 0:
            planner.store(leaf)
        elif leaf.tensor.storage is not None:
            by_storage.setdefault(id(leaf.tensor.storage.base), []).append(leaf)
    for group in by_storage.values():
        planner.place(group)
    layout = Layout(stored=planner.stored)
    for entry in named:
        description = _describe(entry.name, entry.tensor, planner.origins)
        layout.descriptions[entry.name] = {
            "path": list(entry.path),
            "part_of": "model" if entry.in_model else "rest",
            **description,
        }
    return layout


def _leaves(name: str, tensor: Tensor, in_model: bool) -> Iterator[_Leaf]:
    if tensor.layout == "strided":
        yield _Leaf(name, tensor, in_model)
    for part, inner in tensor.parts.items():
        yield from _leaves(f"{name}:{part}", inner, in_model)


class _Planner:
    def __init__(self, repetition: int) -> None:
        self.stored: list[StoredTensor] = []
        self.origins: dict[str, dict[str, Any]] = {}
        self._expansion = limits.MAX_EXPANSION
        self._repetition = repetition

    def store(self, leaf: _Leaf) -> None:
        """Under its own name, contiguous."""
        tensor = leaf.tensor
        element = tensor.element
        shape = tensor.shape
        size = tensor.numel * element.size
        if element.name in COMPONENTS_PER_BYTE:
            size = tensor.span
            shape = (size,)
        elif element.encoding == "complex":
            shape = (*shape, 2)
        self.stored.append(StoredTensor(leaf.name, element.stored, shape, size, tensor, leaf.in_model))
        self.origins[leaf.name] = {"stored": leaf.name}

    def place(self, group: list[_Leaf]) -> None:
        """All views of one storage."""
        first_of: dict[tuple[object, ...], _Leaf] = {}
        for leaf in group:
            first_of.setdefault(leaf.tensor.view, leaf)
        for cluster in _overlapping(list(first_of.values())):
            if len(cluster) == 1 and self._may_expand(cluster[0].tensor):
                self.store(cluster[0])
            else:
                self._place_views(cluster)
        for leaf in group:
            first = first_of[leaf.tensor.view]
            if first is not leaf:
                if self._may_repeat(leaf):
                    self.store(leaf)
                else:
                    self.origins[leaf.name] = dict(self.origins[first.name])
                self.origins[leaf.name]["same_memory_as"] = first.name

    def _may_expand(self, tensor: Tensor) -> bool:
        growth = tensor.numel * tensor.element.size - tensor.span
        if growth <= 0:
            return True
        if growth > self._expansion:
            return False
        self._expansion -= growth
        return True

    def _may_repeat(self, leaf: _Leaf) -> bool:
        """A state dict has every name: tensors of the model are written again while that stays in bounds."""
        size = leaf.tensor.numel * leaf.tensor.element.size
        if not leaf.in_model or size > self._repetition or not self._may_expand(leaf.tensor):
            return False
        self._repetition -= size
        return True

    def _place_views(self, cluster: list[_Leaf]) -> None:
        start = min(leaf.tensor.start for leaf in cluster)
        end = max(leaf.tensor.start + leaf.tensor.span for leaf in cluster)
        base = next((leaf for leaf in cluster if _covers(leaf.tensor, start, end)), None)
        if base is not None:
            self.store(base)
        views = [
            leaf for leaf in cluster if leaf is not base and not self._repeated(leaf, base or cluster[0])
        ]
        if views and base is None:
            base = _common_stretch(cluster, start, end)
            self.store(base)
        for leaf in views:
            self.origins[leaf.name] = {
                "stored": base.name if base else "",
                "offset_bytes": leaf.tensor.start - start,
                "strides": list(leaf.tensor.strides),
            }

    def _repeated(self, leaf: _Leaf, other: _Leaf) -> bool:
        if not self._may_repeat(leaf):
            return False
        self.store(leaf)
        if leaf is not other:
            self.origins[leaf.name]["overlaps"] = other.name
        return True


def _covers(tensor: Tensor, start: int, end: int) -> bool:
    whole = tensor.start == start and tensor.start + tensor.span == end
    return whole and tensor.is_contiguous and tensor.element.encoding in ("", "bits")


def _common_stretch(cluster: list[_Leaf], start: int, end: int) -> _Leaf:
    """The memory that overlapping views have in common, as a tensor of one dimension."""
    tensor = cluster[0].tensor
    size = tensor.element.size
    alike = len({leaf.tensor.dtype for leaf in cluster}) == 1 and tensor.element.encoding == ""
    # Elements of several types can only be kept as bytes, in the byte order of the file's reader.
    dtype, unit = (tensor.dtype, size) if alike and (end - start) % size == 0 else ("uint8", 1)
    base = tensor.storage.base if tensor.storage else Storage("", dtype, 0)
    stretch = Storage(base.key, dtype, (end - start) // unit, start=start, root=base)
    view = Tensor(dtype, (stretch.count,), stretch, 0, (1,))
    return _Leaf(f"{cluster[0].name}:storage", view, any(leaf.in_model for leaf in cluster))


def _overlapping(leaves: list[_Leaf]) -> Iterator[list[_Leaf]]:
    """Groups of views that touch common bytes; the model's come first in each."""
    cluster: list[_Leaf] = []
    reached = -1
    for leaf in sorted(leaves, key=lambda leaf: (leaf.tensor.start, -leaf.tensor.span)):
        if cluster and leaf.tensor.start >= reached:
            yield sorted(cluster, key=lambda leaf: not leaf.in_model)
            cluster = []
        cluster.append(leaf)
        reached = max(reached, leaf.tensor.start + leaf.tensor.span)
    if cluster:
        yield sorted(cluster, key=lambda leaf: not leaf.in_model)


def _describe(name: str, tensor: Tensor, origins: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How to put a tensor together again; see `docs/checkpoints.md`."""
    text: dict[str, Any] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "layout": tensor.layout}
    if tensor.class_name != "torch.Tensor":
        text["class"] = tensor.class_name
    if tensor.requires_grad:
        text["requires_grad"] = True
    if tensor.element.encoding and tensor.layout == "strided":
        text["encoding"] = tensor.element.encoding
    if tensor.layout == "strided":
        text["from"] = origins[name]
        storage = tensor.storage
        if storage is not None:
            key, location = storage.base.key, storage.base.location
            text["source"] = {"storage": key, "location": location, "offset": tensor.offset}
            text["source"]["strides"] = list(tensor.strides)
    if tensor.details:
        text["details"] = tensor.details
    if tensor.parts:
        text["parts"] = {
            part: _describe(f"{name}:{part}", inner, origins) for part, inner in tensor.parts.items()
        }
    return text
