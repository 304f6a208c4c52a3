"""Which folders a list means, and which of its IDs have none."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Collection, Sequence

from prostate_ssl.data.layout import Case
from prostate_ssl.data.tables import PatientTable
from prostate_ssl.errors import ProstateError

_NAMED = 5


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
    named = ", ".join(with_guess(name, table.ids, found) for name in unknown[:_NAMED])
    named += f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
    advice = "IDs must match folder names exactly"
    if {_without_zeros(name) for name in unknown} & {_without_zeros(folder) for folder in found} - {None}:
        advice += "; spreadsheets drop leading zeros unless the column is text"
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


def with_guess(name: str, listed: Collection[str], folders: Collection[str]) -> str:
    """An ID without a folder, and the folder that may be meant: other case, lost zeros, a near name.

    Args:
        name: the ID.
        listed: all IDs of the list; a folder that another one names is not meant here.
        folders: the folders' names.
    """
    taken = set(listed)
    free = [folder for folder in folders if folder not in taken]
    alike = [f for f in free if _plain(f) == _plain(name)] or [f for f in free if _same_but_zeros(name, f)]
    guess = next(iter(alike or difflib.get_close_matches(name, free, n=1, cutoff=0.8)), None)
    if guess is None:
        return name
    same = unicodedata.normalize("NFC", guess) == unicodedata.normalize("NFC", name)
    return f"{name} ({'its folder spells the accents otherwise' if same else f'is it {guess}?'})"


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _same_but_zeros(name: str, folder: str) -> bool:
    return name != folder and _without_zeros(name) == _without_zeros(folder) is not None


def _without_zeros(name: str) -> str | None:
    return name.lstrip("0") if name.isdecimal() else None
