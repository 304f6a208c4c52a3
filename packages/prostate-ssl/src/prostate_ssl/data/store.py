"""Prepared cases in memory, loaded when they are first asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from prostate_ssl.data.order import CaseFacts, gland_counts
from prostate_ssl.data.preparing import PreparedCase
from prostate_ssl.errors import ProstateError


@dataclass(frozen=True)
class BadCase:
    """A case that could not be used, and why."""

    case_id: str
    reason: str


class CaseStore:
    """Loads cases on demand, keeps them up to a budget, remembers the bad ones. Safe for several threads.

    Args:
        case_ids: names, by index.
        load: index → prepared case; raises `ProstateError` or `OSError` for a bad one.
        show_mask: (N,) bool.
        budget: bytes of arrays that may be kept.
        max_bad_share: more bad cases than this share of all stops the run.
    """

    def __init__(
        self,
        case_ids: list[str],
        load: Callable[[int], PreparedCase],
        show_mask: np.ndarray,
        budget: int,
        max_bad_share: float,
    ) -> None:
        self.case_ids = case_ids
        self.bad: dict[int, BadCase] = {}
        self.notes: dict[str, tuple[str, ...]] = {}
        self._load = load
        self._show_mask = show_mask
        self._budget = budget
        self._max_bad_share = max_bad_share
        self._kept: OrderedDict[int, tuple[PreparedCase, CaseFacts]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._loading: dict[int, threading.Lock] = {}

    def get(self, index: int) -> tuple[PreparedCase, CaseFacts] | None:
        """The case and its facts; None if it is bad.

        Raises:
            ProstateError: too many cases are bad; the message names them.
        """
        with self._lock:
            if index in self.bad:
                return None
            if index in self._kept:
                self._kept.move_to_end(index)
                return self._kept[index]
            own = self._loading.setdefault(index, threading.Lock())
        with own:
            with self._lock:
                if index in self._kept:
                    return self._kept[index]
                if index in self.bad:
                    return None
            return self._read(index)

    def _read(self, index: int) -> tuple[PreparedCase, CaseFacts] | None:
        try:
            case = self._load(index)
        except (ProstateError, OSError, MemoryError) as error:
            self._drop(index, str(error) or type(error).__name__)
            return None
        mask = case.array[-1] > 0.5 if case.has_mask and self._show_mask[index] else None
        depth, height, width = case.array.shape[1:]
        facts = CaseFacts((depth, height, width), None if mask is None else gland_counts(mask))
        with self._lock:
            self._kept[index] = (case, facts)
            self._bytes += case.array.nbytes
            if case.notes:
                self.notes[case.case_id] = case.notes
            while self._bytes > self._budget and len(self._kept) > 1:
                _, (old, _) = self._kept.popitem(last=False)
                self._bytes -= old.array.nbytes
        return case, facts

    def _drop(self, index: int, reason: str) -> None:
        with self._lock:
            self.bad[index] = BadCase(self.case_ids[index], reason)
            share = len(self.bad) / len(self.case_ids)
        if share > self._max_bad_share:
            named = "; ".join(f"{bad.case_id} ({bad.reason})" for bad in list(self.bad.values())[:10])
            raise ProstateError(
                f"{len(self.bad)} of {len(self.case_ids)} cases cannot be used, more than the allowed "
                f"share of {self._max_bad_share:.0%}: {named}. Look at them with `prostate-ssl check`."
            )
