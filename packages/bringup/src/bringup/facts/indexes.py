"""How this user reaches a package index: pip's and uv's own configuration, read and not replaced."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

_CREDENTIALS = re.compile(r"(?<=://)[^/\s]+(?=@)")  # to the last @: a password may hold one


@dataclass(frozen=True)
class IndexFacts:
    """The configuration that installers will follow. Credentials are replaced by `***`.

    Attributes:
        pip: (key, value) as `pip config list` has them, environment variables included.
        uv: path of uv, None where there is none.
        uv_configured: uv has a configuration of its own (uv.toml or UV_* variables about indexes).
        proxy: the proxy variables that are set.
    """

    pip: tuple[tuple[str, str], ...]
    uv: str | None
    uv_configured: bool
    proxy: tuple[tuple[str, str], ...]

    @property
    def pip_configured(self) -> bool:
        """Whether pip was told where packages come from: uv reads none of that."""
        names = ("index-url", "extra-index-url", "find-links", "no-index")
        return any(key.rpartition(".")[2].lstrip(":") in names for key, _ in self.pip)


def redact(text: str) -> str:
    """Replace user names and passwords in URLs."""
    return _CREDENTIALS.sub("***", text)


def _pip_configuration(python: str) -> tuple[tuple[str, str], ...]:
    """(key, value) as they stand, credentials included."""
    try:
        listed = subprocess.run(
            [python, "-m", "pip", "config", "list"], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return _pip_variables()
    rows = []
    for line in listed.splitlines():
        key, separator, value = line.partition("=")
        if separator:
            rows.append((key.strip(), value.strip().strip("'")))
    return tuple(rows)


def _pip_variables() -> tuple[tuple[str, str], ...]:
    """What the environment says, for an interpreter without pip."""
    named = ((name, value) for name, value in os.environ.items() if name.startswith("PIP_"))
    return tuple(
        (":env:." + name.removeprefix("PIP_").lower().replace("_", "-"), value)
        for name, value in sorted(named)
    )


_UV_VARIABLES = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", " "),
}


def pip_sources_for_uv(python: str = sys.executable) -> dict[str, str]:
    """pip's sources as the variables that uv reads (UV_FIND_LINKS, …); what is set already stays.

    Credentials included: to be handed to a process, never to be shown.
    """
    levels = ("global", "user", "site", "install", ":env:")  # each goes before those on its left
    rows = sorted(
        _pip_configuration(python),
        key=lambda row: next((n for n, name in enumerate(levels) if row[0].startswith(name)), 0),
    )
    values = {key.rpartition(".")[2]: value for key, value in rows}
    found: dict[str, str] = {}
    for key, (variable, separator) in _UV_VARIABLES.items():
        # pip looks past an index in a folder that is not there; uv ends.
        parts = [part for part in values.get(key, "").split() if _may_be_there(part)]
        if parts and not os.environ.get(variable):
            found[variable] = separator.join(parts)
    return found


def _may_be_there(address: str) -> bool:
    return not address.startswith("file:") or Path(url2pathname(urlsplit(address).path)).exists()


def _uv_configured() -> bool:
    about_indexes = ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS")
    if any(os.environ.get(name) for name in about_indexes):
        return True
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "uv" / "uv.toml"
    return configuration.is_file() or Path("/etc/uv/uv.toml").is_file()


def read_indexes(python: str = sys.executable) -> IndexFacts:
    """Read the configuration as the given interpreter's pip sees it."""
    proxies = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
    named = {name: os.environ.get(name) or os.environ.get(name.lower()) for name in proxies}
    return IndexFacts(
        pip=tuple((key, redact(value)) for key, value in _pip_configuration(python)),
        uv=shutil.which("uv"),
        uv_configured=_uv_configured(),
        proxy=tuple((name, redact(value)) for name, value in named.items() if value),
    )
