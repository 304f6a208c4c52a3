"""The published dataset strings: `Name:key=value:key=value`."""

from __future__ import annotations

import re

_OPTION = re.compile(r":(?=[A-Za-z_]\w*=)")


def dataset_name(text: str) -> str:
    """`ProstateSSL:split=TRAIN:…` → `ProstateSSL`."""
    return _OPTION.split(text)[0].rstrip(":")


def dataset_options(text: str) -> dict[str, str]:
    r"""The options of a dataset string. A colon separates only before `key=`: `root=C:\data` stays whole."""
    return dict(part.split("=", 1) for part in _OPTION.split(text)[1:])


def with_options(text: str, **options: object) -> str:
    """The same string with these options added or replaced."""
    merged = dataset_options(text) | {name: str(value) for name, value in options.items()}
    return ":".join([dataset_name(text), *(f"{name}={value}" for name, value in merged.items())])
