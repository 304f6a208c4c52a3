"""What a project tells people to type: install commands in its README, pages on installing and scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from packaging.utils import canonicalize_name

from bringup.facts.cuda_choices import TorchOrigin, torch_origins
from bringup.facts.indexes import redact
from bringup.facts.project_requirements import Pin, pins_of_dockerfile

_PAGE = re.compile(
    r"(?:readme|install|installation|get(?:ting)?[-_]?started|setup)[\w.-]*\.(?:md|rst|txt)|readme"
)
_SCRIPT = re.compile(r"[\w.-]*(?:install|setup|env)[\w.-]*\.sh")
_FOLDERS = (".", "doc", "docs", "scripts")
_INSTALL = re.compile(r"(?<![\w-])(?:pip3?|conda|mamba)\s+install\s[^`]*")
_NAMES_TORCH = re.compile(r"(?<![\w./=-])(?:py)?torch(?![\w/-])")
# For a machine without such a GPU: no word about this one.
_NOT_FOR_CUDA = re.compile(r"/(?:cpu|rocm[\d.]*|xpu)\b|\+(?:cpu|rocm)|\bcpuonly\b")
_MOST_SHOWN = 160


@dataclass(frozen=True)
class InstallCommand:
    """A command that installs torch, or what was built for one.

    Attributes:
        text: as it is written, on one line, without credentials.
        pins: torch's; none of `pip install torch`, or of a version that is filled in later.
        origins: where it is taken from, and conda's choices of CUDA.
    """

    file: str
    line: int
    text: str
    pins: tuple[Pin, ...]
    origins: tuple[TorchOrigin, ...]


def holds_instructions(file: str) -> bool:
    """README.md, INSTALL.rst, docs/getting_started.md, setup.sh: those of the project, not of its parts."""
    path = PurePosixPath(file.lower())
    return str(path.parent) in _FOLDERS and bool(_PAGE.fullmatch(path.name) or _SCRIPT.fullmatch(path.name))


def install_commands(text: str, file: str) -> Iterator[InstallCommand]:
    """The commands of a page or a script; of a script those that are no comments."""
    for number, line in _joined_lines(text, is_script=file.lower().endswith(".sh")):
        for part in re.split(r"&&|\|\||;\s", line):
            match = _INSTALL.search(part)
            if match is None or _NOT_FOR_CUDA.search(match[0]):
                continue
            pins = [
                replace(pin, line=number)
                for pin in pins_of_dockerfile(f"RUN {match[0]}", file)
                if canonicalize_name(pin.requirement.name) == "torch"
            ]
            # As in a Dockerfile: pip's options and conda's packages wherever they stand.
            origins = [replace(row, file=file, line=number) for row in torch_origins(match[0], "Dockerfile")]
            if origins or _NAMES_TORCH.search(match[0]):
                shown = " ".join(redact(match[0]).split())[:_MOST_SHOWN]
                yield InstallCommand(file, number, shown, tuple(pins), tuple(origins))


def _joined_lines(text: str, is_script: bool) -> Iterator[tuple[int, str]]:
    """(number of its first line, line), joined where one ends in a backslash."""
    begun, joined = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        row = line.strip()
        if is_script and row.startswith("#"):
            continue
        begun = begun if joined else number
        joined += row.removesuffix("\\") + " "
        if not row.endswith("\\"):
            yield begun, joined
            joined = ""
    if joined:
        yield begun, joined
