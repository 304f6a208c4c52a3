"""Which folders a list means, and which of its IDs have none."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Collection, Iterator, Sequence

from prostate_ssl.data.layout import Case
from prostate_ssl.data.tables import PatientTable
from prostate_ssl.errors import ProstateError

_NAMED = 5
_COMPARED = 20


def listed_cases(table: PatientTable, cases: Sequence[Case]) -> tuple[list[Case], tuple[str, ...]]:
    """The folders of a list, in its order.

    Returns:
        The cases, and what there is to say: each ID without a folder, with the folder that may be meant.

    Raises:
        ProstateError: no ID has a folder; or the list begins with a patient.
    """
    found = {case.case_id: case for case in cases}
    if table.column in found:
        raise ProstateError(
            f"The list {table.path} has no header: its first line names the patient {table.column}. Write a "
            "line «patient_id» above it."
        )
    unknown = unknown_ids(table, found)
    if not unknown:
        return [found[name] for name in table.ids], ()
    named = ", ".join(with_guesses(unknown[:_NAMED], table.ids, found))
    named += f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
    advice = "IDs must match folder names exactly"
    if {_without_zeros(name) for name in unknown} & {_without_zeros(folder) for folder in found} - {None}:
        advice += "; spreadsheets drop leading zeros, and pandas adds .0, unless the column is text"
    root = cases[0].folder.parent
    if len(unknown) == len(table.ids):
        raise ProstateError(
            f"None of the {len(unknown)} patients of {table.path} has a folder in {root}: {named}. {advice}."
        )
    have = "has" if len(unknown) == 1 else "have"
    return [found[name] for name in table.ids if name in found], (
        f"{table.path.name}: {len(unknown)} of {len(table.ids)} patients {have} no folder in {root}, "
        f"and the rest is used: {named}. {advice}.",
    )


def unknown_ids(table: PatientTable, folders: Collection[str]) -> list[str]:
    """IDs of a list that have no folder."""
    return [name for name in table.ids if name not in folders]


def with_guesses(names: Sequence[str], listed: Collection[str], folders: Collection[str]) -> Iterator[str]:
    """IDs without a folder, each with the folder that may be meant: other case, lost zeros, a near name.

    Args:
        names: the IDs; near names are looked for with the first of them alone, since that takes long.
        listed: all IDs of the list; a folder that another one names is not meant here.
        folders: the folders' names.
    """
    taken = set(listed)
    free = [folder for folder in folders if folder not in taken]
    by_letters: dict[str, str] = {}
    by_number: dict[str | None, str] = {}
    for folder in reversed(free):  # of several the first is named
        by_letters[_plain(folder)] = by_number[_without_zeros(folder)] = folder
    by_number.pop(None, None)
    for place, name in enumerate(names):
        guess = by_letters.get(_plain(name)) or by_number.get(_without_zeros(name))
        if guess is None and place < _COMPARED:
            guess = next(iter(difflib.get_close_matches(name, free, n=1, cutoff=0.8)), None)
        if guess is None:
            yield name
            continue
        same = unicodedata.normalize("NFC", guess) == unicodedata.normalize("NFC", name)
        yield f"{name} ({'its folder spells the accents otherwise' if same else f'is it {guess}?'})"


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _without_zeros(name: str) -> str | None:
    whole = name.removesuffix(".0")  # as pandas writes numbers beside an empty cell
    return whole.lstrip("0") if whole.isdecimal() else None
