"""Does a project's new environment offer what its files import? Told, not refused:
the project may do without."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bringup.facts.project import ProjectFacts
from bringup.facts.project_requirements import is_beside_the_project
from bringup.steps.target import Target

_OF_BUILDS = ("setup", "setuptools", "pkg_resources", "distutils", "Cython")


@dataclass(frozen=True)
class ProjectImports:
    """What became of the modules that a project imports from elsewhere.

    Attributes:
        sound: those that import. `absent`: (module, place) of what is not installed.
        failing: (module, place, error) of what is there and does not import.
    """

    sound: tuple[str, ...]
    absent: tuple[tuple[str, str], ...]
    failing: tuple[tuple[str, str, str], ...]


def project_imports(target: Target, project: ProjectFacts) -> ProjectImports:
    """Import each of them in the environment, apart from this process."""
    asked = {
        module: place
        for module, place in sorted(project.imports.items())
        if module not in sys.stdlib_module_names
        and module not in project.own_modules
        and module not in _OF_BUILDS
        and not is_beside_the_project(place.rpartition(":")[0])
    }
    rows = _tried(target, tuple(asked)) if asked else {}
    errors = {module: str(row.get("error", "")).partition("\n")[0] for module, row in rows.items()}
    absent = [module for module in asked if errors[module] == _not_installed(module)]
    failing = [module for module in asked if not rows[module]["ok"] and module not in absent]
    return ProjectImports(
        tuple(module for module in asked if rows[module]["ok"]),
        tuple((module, asked[module]) for module in absent),
        tuple((module, asked[module], errors[module]) for module in failing),
    )


def _tried(target: Target, modules: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The probe's rows; where one of the modules takes Python down, each is tried alone."""
    answer = target.probe("imports", {"modules": list(modules)})
    if "modules" in answer:
        return dict(answer["modules"])
    if len(modules) == 1:
        return {modules[0]: {"ok": False, "error": answer["crash"]}}
    return {name: row for module in modules for name, row in _tried(target, (module,)).items()}


def _not_installed(module: str) -> str:
    return f"ModuleNotFoundError: No module named {module!r}"
