"""CSV lists of patients: split files and labels."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

from prostate_ssl.errors import ProstateError
from prostate_ssl.files import write_atomically

ID_COLUMNS = ("patient_id", "case_id", "id", "subject", "name")
"""In any case of letters; the first that a list has counts."""

LABEL_COLUMN = "label"
MOST_CLASSES = 10_000
"""A label above is a patient's number or a date in the wrong column; a network's head has a row a class."""

_EXCEL_TEXT = re.compile(r'="([^"]*)"')  # a formula that keeps Excel from dropping zeros
_UNKNOWN = {"na", "n/a", "nan", "-1", "-1.0"}  # of R and pandas, and our own sign
_NAMED = 5  # rows that are passed over
_WHOLE_WITH_COMMA = re.compile(r"(?<=\d),00?$")  # as Germans write 1.0; 1,000 may be a thousand


@dataclass(frozen=True)
class PatientTable:
    """A CSV list, in file order.

    Attributes:
        column: name of the column that they stand in.
        ids: patients, exactly as written (leading zeros are kept).
        labels: the label column as text ("" where empty, NA, N/A, nan or -1), or None without such a column.
        warnings: repeated or empty IDs, an unknown ID column, labels that mean none.
        others: names of the columns that are not read.
    """

    path: Path
    column: str
    ids: tuple[str, ...]
    labels: tuple[str, ...] | None
    warnings: tuple[str, ...]
    others: tuple[str, ...] = ()


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Read a UTF-8 CSV with a header; a byte-order mark, ; or tab separators and any line ends are accepted.

    Returns:
        Column names, and a column → text for every line that is not blank; nothing is guessed from the text,
        only `="001"` is unwrapped. Of columns without a name a line has the first.

    Raises:
        ProstateError: the file is missing, not UTF-8, not CSV, or names a column twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ProstateError(f"The list {path} does not exist.") from None
    except UnicodeDecodeError:
        raise ProstateError(
            f"The list {path} is not UTF-8 text: save it so (in Excel: «CSV UTF-8»), or names are misread."
        ) from None
    except OSError as error:
        raise ProstateError(f"The list {path} cannot be read: {error.strerror}.") from error
    if "\0" in text:  # UTF-16 without its mark, a workbook, a database
        raise ProstateError(
            f"The list {path} is not a UTF-8 text file: save it as one (in Excel: «CSV UTF-8»)."
        )
    text = text.lstrip("\n")
    header = re.sub(r'"[^"]*"', "", text).split("\n", 1)[0]  # separators inside quotes separate nothing
    delimiter = max(",;\t", key=header.count)
    if marked := re.match(r"sep=(.)\s*[\n\r]+", text):  # Excel's own line above the header
        delimiter, text = marked[1], text[marked.end() :]
    _refuse_open_quotes(text, delimiter, path)
    try:
        lines = [
            line
            for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            if any(map(str.strip, line))
        ]
    except csv.Error as error:
        raise ProstateError(f"The list {path} is no CSV file: {error}.") from error
    columns = [name.strip() for name in lines[0]] if lines else []
    named = [name for name in columns if name]
    if len(set(named)) != len(named):
        raise ProstateError(f"The list {path} has two columns of one name: {', '.join(columns)}.")
    return columns, [_row(columns, line) for line in lines[1:]]


def _row(columns: list[str], line: list[str]) -> dict[str, str]:
    row: dict[str, str] = {}
    for name, cell in zip(columns, line, strict=False):
        as_text = _EXCEL_TEXT.fullmatch(cell.strip())
        # Of several columns without a name the first counts: Excel ends its lines with empty ones.
        row.setdefault(name, as_text[1].strip() if as_text else cell.strip())
    return row


def _refuse_open_quotes(text: str, delimiter: str, path: Path) -> None:
    """A quotation mark that is never closed would take all lines below into one cell."""
    reader, last = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), 0
    try:
        for _ in reader:
            last = reader.line_num
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise ProstateError(
                f"The list {path} has a quotation mark below its line {last} that is never closed: close it "
                "or take it out."
            ) from error


def class_number(text: str) -> int | None:
    """The class that a label means (`1`, `1.0`, `1,0` and `01` are one); None where it means none."""
    try:
        value = float(_WHOLE_WITH_COMMA.sub("", text))
    except ValueError:
        return None
    # Neither NaN nor infinity, which some exports write; Python's own 1_0 is nobody's label.
    whole = 0 <= value < MOST_CLASSES and value == int(value) and "_" not in text
    return int(value) if whole else None


def read_patient_table(path: Path, label_column: str = LABEL_COLUMN) -> PatientTable:
    """Read a list of patients, see `read_rows`.

    Raises:
        ProstateError: as `read_rows`, or there is no line with an ID.
    """
    if not path.is_file():
        reason = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise ProstateError(f"The list {path} {reason}. `prostate-ssl split DATA --out DIR` writes lists.")
    columns, rows = read_rows(path)
    if not rows:
        raise ProstateError(
            f"The list {path} has no patients: a header line and one line a patient are needed."
        )
    warnings = []
    column, known = _id_column(columns, label_column)
    if known == len(ID_COLUMNS):
        warnings.append(
            f"{path.name}: no known ID column ({', '.join(ID_COLUMNS)}); the first, '{column}', is used"
        )
    better = {_letters(name): name for name in ID_COLUMNS[:known]}
    for name in columns:
        if name not in (column, label_column) and _letters(name) in better:
            wanted = better[_letters(name)]
            warnings.append(
                f"{path.name}: IDs are read from '{column}', not from '{name}'; name that '{wanted}' "
                "if it has them"
            )
    near = next((name for name in columns if name.lower() == label_column.lower()), label_column)
    if label_column not in columns and near != label_column:
        warnings.append(f"{path.name}: the column '{near}' is not read; name it '{label_column}'")
    kept: dict[str, str] = {}
    passed_over, unknown = [], []
    for row in rows:
        name, given = row.get(column, ""), row.get(label_column, "")
        label = "" if given.lower() in _UNKNOWN else given
        if not name:
            passed_over.append(f"{path.name}: a row without an ID is passed over")
        elif name in kept:
            both = f" with labels {kept[name]!r} and {label!r}" if label != kept[name] else ""
            passed_over.append(f"{path.name}: {name} is listed twice{both}; its first line counts")
        else:
            kept[name] = label
            unknown += [given] if given != label else []
    warnings += passed_over[:_NAMED]
    if len(passed_over) > _NAMED:
        warnings.append(f"{path.name}: {len(passed_over) - _NAMED} more rows are passed over as these")
    if unknown:
        words = ", ".join(dict.fromkeys(unknown))
        warnings.append(f"{path.name}: labels that mean unknown ({words}): {len(unknown)} of {len(kept)}")
    if not kept:
        raise ProstateError(f"The list {path} has no patients: the column '{column}' is empty.")
    labels = tuple(kept.values()) if label_column in columns else None
    others = tuple(name for name in columns if name and name not in (column, label_column))
    return PatientTable(path, column, tuple(kept), labels, tuple(warnings), others)


def _id_column(columns: list[str], label_column: str) -> tuple[str, int]:
    """The column of the IDs, and its place in ID_COLUMNS (their number: none of them, the first is taken)."""
    others = [name for name in columns if name and name.lower() != label_column.lower()]
    for place, wanted in enumerate(ID_COLUMNS):
        alike = [name for name in others if name.lower() == wanted]
        if alike:
            return (wanted if wanted in alike else alike[0]), place
    # An index without a name stands before the others where pandas wrote the list.
    return (others or columns)[0], len(ID_COLUMNS)


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def write_patient_table(path: Path, ids: list[str], labels: list[str] | None = None) -> None:
    """Write `patient_id[,label]`, UTF-8, atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["patient_id"] if labels is None else ["patient_id", LABEL_COLUMN])
    rows = (
        [[name] for name in ids] if labels is None else [list(pair) for pair in zip(ids, labels, strict=True)]
    )
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue().encode())


def find_split_csv(text: str, root: Path, beside: Path | None = None) -> Path:
    """A list is looked for as given, then beside the configuration, then in the data root."""
    places = [Path(text)]
    if beside is not None:
        places.append(beside / text)
    places.append(root / text)
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(f"{p} (a folder)" if p.is_dir() else str(p) for p in dict.fromkeys(places))
    raise ProstateError(
        f"The list {text} was not found (looked at: {looked}). `prostate-ssl split {root} --out DIR` writes "
        "train.csv, val.csv and test.csv; without split_csv every patient of the root is used."
    )
