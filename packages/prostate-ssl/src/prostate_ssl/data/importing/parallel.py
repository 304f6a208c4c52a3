"""A map over several processes, in order, with progress."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, chunk: int = 1
) -> Iterator[Result]:
    """Apply a function to items; results come in order.

    Args:
        function: importable by name (it travels to other processes).
        items: its arguments.
        workers: processes; with 1, or too little to do, everything happens here.
        chunk: items that travel together.
    """
    if workers <= 1 or len(items) <= chunk:
        yield from map(function, items)
        return
    # spawn: forking a process that holds threads (torch, BLAS) can deadlock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=min(workers, len(items)), mp_context=context) as pool:
        yield from pool.map(function, items, chunksize=chunk)
