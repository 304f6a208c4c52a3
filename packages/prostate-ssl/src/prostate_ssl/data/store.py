"""Prepared cases, loaded when they are first asked for."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prostate_ssl.data.cache import CachedCase
from prostate_ssl.data.order import CaseFacts
from prostate_ssl.data.preparing import PreparedCase
from prostate_ssl.errors import ProstateError

logger = logging.getLogger("prostate_ssl")

AnyCase = PreparedCase | CachedCase

MOST_MAPPED = 256
"""So many cases are mapped at a time: each holds a file descriptor, of which a process often has 1,024."""


@dataclass(frozen=True)
class BadCase:
    """A case that could not be used, and why."""

    case_id: str
    reason: str


@dataclass(frozen=True)
class LoadedCase:
    """A case with what choosing a slice needs to know of it."""

    case: AnyCase
    facts: CaseFacts


class CaseStore:
    """Loads cases on demand, keeps them up to a budget, remembers the bad ones. Safe for several threads.

    Args:
        case_ids: names, by index.
        load: index → case; raises `ProstateError` or `OSError` for a bad one.
        show_mask: (N,) bool.
        budget: bytes of arrays that may be kept; of memory-mapped ones `MOST_MAPPED` are kept.
        max_bad_share: more bad cases than this share of all stops the run.
    """

    def __init__(
        self,
        case_ids: list[str],
        load: Callable[[int], AnyCase],
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
        self._kept: OrderedDict[int, LoadedCase] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        # Several threads load: whichever meets one case too many, all of them stop.
        self._stop: ProstateError | None = None
        self._loading: dict[int, threading.Lock] = {}

    def get(self, index: int) -> LoadedCase | None:
        """The case; None if it is bad.

        Raises:
            ProstateError: too many cases are bad; the message names them.
        """
        with self._lock:
            if self._stop is not None:
                raise self._stop
            if index in self.bad:
                return None
            if index in self._kept:
                self._kept.move_to_end(index)
                return self._kept[index]
            own = self._loading.setdefault(index, threading.Lock())
        with own:
            with self._lock:
                if self._stop is not None:
                    raise self._stop
                if index in self._kept:
                    return self._kept[index]
                if index in self.bad:
                    return None
            return self._read(index)

    def drop(self, index: int, reason: str) -> None:
        """Take a case out for the rest of the run.

        Raises:
            ProstateError: too many cases are bad.
        """
        with self._lock:
            self.bad[index] = BadCase(self.case_ids[index], reason)
            kept = self._kept.pop(index, None)
            self._bytes -= _memory_of(kept.case) if kept else 0
            count, cases = len(self.bad), len(self.case_ids)
            # Under the same lock as the drop: a thread that finds every case bad must find the reason too.
            if count / cases > self._max_bad_share or count == cases:
                self._stop = self._too_many_bad()
            stop = self._stop
        logger.warning(
            "data: case %s dropped, %d of %d so far: %s", self.case_ids[index], count, cases, reason
        )
        if stop is not None:
            raise stop

    def _too_many_bad(self) -> ProstateError:
        named = "; ".join(f"{bad.case_id} ({bad.reason})" for bad in list(self.bad.values())[:10])
        return ProstateError(
            f"{len(self.bad)} of {len(self.case_ids)} cases cannot be used, more than the allowed "
            f"share of {self._max_bad_share:.0%}: {named}. Look at them with `prostate-ssl check`."
        )

    def forget(self, index: int) -> None:
        """Free a case's memory; it is loaded again when it is asked for."""
        with self._lock:
            kept = self._kept.pop(index, None)
            self._bytes -= _memory_of(kept.case) if kept else 0

    def _read(self, index: int) -> LoadedCase | None:
        try:
            case = self._load(index)
        except ProstateError as error:
            self.drop(index, error.message)
            return None
        except Exception as error:  # noqa: BLE001 - no file may end a run, whatever is wrong with it
            self.drop(index, f"{type(error).__name__}: {error}")
            return None
        gland = case.gland_counts() if self._show_mask[index] else None
        loaded = LoadedCase(case, CaseFacts(case.shape[1:], gland))
        with self._lock:
            self._kept[index] = loaded
            self._bytes += _memory_of(case)
            if case.notes:
                self.notes[case.case_id] = case.notes
            mapped = isinstance(case, CachedCase)
            while (self._bytes > self._budget or (mapped and len(self._kept) > MOST_MAPPED)) and (
                len(self._kept) > 1
            ):
                _, old = self._kept.popitem(last=False)
                self._bytes -= _memory_of(old.case)
        return loaded


def remarks_line(notes: Mapping[str, Sequence[str]], cases: int) -> str:
    """How many of the cases were used otherwise than as their files stand, and what of the first."""
    some = "; ".join(f"{name}: {', '.join(said)}" for name, said in list(notes.items())[:5])
    return f"{len(notes)} of {cases} cases with remarks, as {some}"


def _memory_of(case: AnyCase) -> int:
    return 0 if isinstance(case, CachedCase) else case.array.nbytes
