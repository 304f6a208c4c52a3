"""The published dataset strings: `Name:key=value:key=value`."""

from __future__ import annotations

import re
from pathlib import Path

from prostate_ssl.errors import ProstateError
from prostate_ssl.files import absolute

_OPTION = re.compile(r":(?=[A-Za-z_]\w*=)")


def dataset_name(text: str) -> str:
    """`ProstateSSL:split=TRAIN:…` → `ProstateSSL`."""
    return _OPTION.split(text)[0].rstrip(":")


def dataset_options(text: str) -> dict[str, str]:
    r"""The options of a dataset string. A colon separates only before `key=`: `root=C:\data` stays whole."""
    return dict(part.split("=", 1) for part in _OPTION.split(text)[1:])


def as_trained(
    text: str,
    data: str | Path,
    split: str,
    split_csv: str | None,
    share: float = 1.0,
    *,
    name: str = "",
    **options: object,
) -> str:
    """Other cases, read as those that a network was trained on: its sequences, its choice of files.

    Args:
        text: dataset string of the training.
        data: folder of the cases.
        split, split_csv: as in the dataset string; no list means all cases.
        share: of the labels, that may be used.
        name: of the dataset, where it is another one than the training's.
        options: further ones.
    """
    own = dataset_options(text) | {"random_axes": "False", "random_slices": "False"}
    chosen = {
        "root": absolute(data),
        "split": split,
        "split_csv": split_csv or "none",
        "percentage_labels": share,
    }
    return with_options(name or dataset_name(text), **(own | chosen | options))


def with_options(text: str, **options: object) -> str:
    """The same string with these options added or replaced.

    Raises:
        ProstateError: a value holds what would begin another option.
    """
    for value in options.values():
        if _OPTION.search(str(value)):
            raise ProstateError(
                f"{value} cannot stand in a dataset string: what follows its colon looks like another "
                "option (:name=). Rename the folder or file, or make a symbolic link with another name.",
                2,
            )
    merged = dataset_options(text) | {name: str(value) for name, value in options.items()}
    return ":".join([dataset_name(text), *(f"{name}={value}" for name, value in merged.items())])
