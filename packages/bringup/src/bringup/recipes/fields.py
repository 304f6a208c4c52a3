"""Types of the fields of recipes and plans: what a person may write there, and what no edit smuggles in."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, Specifier, SpecifierSet
from packaging.version import InvalidVersion
from packaging.version import Version as ParsedVersion
from pydantic import AfterValidator, Field

CONDITION = re.compile(r"\s*(gcc|torch|python|cuda)\s*((?:[<>=!~]=?|===)\s*[\w.*+]+)\s*")
_ADDRESS = re.compile(r"(?:https?|ssh|git|file)://\S+|[\w.-]+@[\w.-]+:\S+")
_MODULE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")


def _specifiers(text: str) -> str:
    try:
        SpecifierSet(text)
    except InvalidSpecifier as error:
        raise ValueError(f"'{text}' is no version range such as '>=3.10,<3.14'") from error
    if contradicts(text):
        raise ValueError(f"no version fits '{text}'")
    return text


def contradicts(text: str) -> bool:
    """Whether no version can fit a range: `>=3,<2`."""
    wanted = SpecifierSet(text)
    # If any version fits, so does a bound, the release after it, a patch of it, or the very first (`<2.0`).
    near = ["0", *(candidate for row in wanted for candidate in _around(row))]
    return not any(wanted.contains(candidate, prereleases=True) for candidate in near)


def _around(row: Specifier) -> list[str]:
    bound = row.version.removesuffix(".*")
    *head, last = (ParsedVersion(bound).release) if row.operator != "===" else (0,)
    after = ".".join(map(str, (*head, last + 1)))
    before = ".".join(map(str, (*head, max(0, last - 1))))
    return [bound, f"{bound}.1" if "+" not in bound else bound, after, f"{before}.999"]


def _requirement(text: str) -> str:
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise ValueError(f"'{text}' is no requirement: {error}") from error
    if requirement.url:
        raise ValueError(f"'{text}' names an address; only what an index has can be locked")
    _specifiers(str(requirement.specifier))
    return text


def _version(text: str) -> str:
    try:
        ParsedVersion(text)
    except InvalidVersion as error:
        raise ValueError(f"'{text}' is no version such as 2.11.0+cu130") from error
    return text


def _inside(text: str) -> str:
    parts = PurePosixPath(text).parts
    if ".." in parts or PurePosixPath(text).is_absolute() or PureWindowsPath(text).drive or "\n" in text:
        raise ValueError(f"'{text}' leads outside the folder that it lies in")
    return text


def _expression(text: str) -> str:
    try:
        re.compile(text, re.MULTILINE)
    except re.error as error:
        raise ValueError(f"'{text}' is no regular expression: {error}") from error
    return text


def _condition(text: str) -> str:
    for part in text.split(","):
        match = CONDITION.fullmatch(part)
        if not match:
            raise ValueError(f"'{part}' is no condition such as gcc>=13 or torch>=2.6")
        _specifiers(match[2].strip())
    return text


def _address(text: str) -> str:
    if not _ADDRESS.fullmatch(text):
        raise ValueError(f"'{text}' is no address such as https://… or git@host:…")
    return text


def _class_path(text: str) -> str:
    module, colon, name = text.partition(":")
    if not colon or not all(part.isidentifier() for part in [*module.split("."), *name.split(".")]):
        raise ValueError(f"'{text}' is no class of a module such as gatunet_model:GatUNet")
    return text


def _module(text: str) -> str:
    if not _MODULE.fullmatch(text):
        raise ValueError(f"'{text}' is no module's name such as torch_scatter")
    return text


def _probe(text: str) -> str:
    folder = resources.files("bringup.steps") / "probes"
    if not text.isidentifier() or not (folder / f"{text}.py").is_file():
        raise ValueError(f"there is no probe '{text}'")
    return text


VersionRange = Annotated[str, AfterValidator(_specifiers)]
RequirementText = Annotated[str, AfterValidator(_requirement)]
Version = Annotated[str, AfterValidator(_version)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
CommitHash = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Module = Annotated[str, AfterValidator(_module)]
ClassPath = Annotated[str, AfterValidator(_class_path)]
Probe = Annotated[str, AfterValidator(_probe)]
# A path below some folder, with `/`: never absolute, never with `..`.
InsidePath = Annotated[str, AfterValidator(_inside)]
Expression = Annotated[str, AfterValidator(_expression)]
Condition = Annotated[str, AfterValidator(_condition)]
# Of a repository: nothing that git would take for an option or a helper.
Address = Annotated[str, AfterValidator(_address)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
