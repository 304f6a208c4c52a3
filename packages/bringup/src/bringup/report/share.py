"""A doctor's document that can be shown to strangers: no names of people, hosts or private places."""

from __future__ import annotations

import getpass
import json
import platform
import re
from pathlib import Path
from typing import Any

_URL = re.compile(r"\b(https?|ftp)://[^\s'\",;]+")
_PUBLIC = ("https://pypi.org/", "https://download.pytorch.org/", "https://data.pyg.org/")


def _url(match: re.Match[str]) -> str:
    return match[0] if match[0].startswith(_PUBLIC) else f"{match[1]}://***"


def redacted(document: dict[str, Any]) -> str:
    """The document as JSON; the home folder becomes `~`, user and host names and private URLs `***`."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    home = str(Path.home())
    if len(home) > 1:
        text = text.replace(json.dumps(home)[1:-1], "~")
    text = _URL.sub(_url, text)
    for name in (platform.node(), _user()):
        if len(name) > 2 and name not in ("root", "localhost"):
            text = re.sub(rf"\b{re.escape(name)}\b", "***", text)
    return re.sub(r'("uuid": ")[^"]+', r"\1***", text) + "\n"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
