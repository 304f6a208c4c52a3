"""A project or a broken environment → a recipe made on the spot → a plan; what is loosened is said.

The order of giving way: torch's pin, the Python range, then those pins that an index or the resolver names.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from pydantic import ValidationError

from bringup.binaries.architectures import ComputeCapability
from bringup.catalog import Catalog
from bringup.catalog import load as load_catalog
from bringup.catalog.schema import Extension
from bringup.errors import BringupError
from bringup.facts.environment import read_environment
from bringup.facts.interpreters import Interpreter, ask
from bringup.facts.machine import MachineFacts
from bringup.facts.project import ProjectFacts
from bringup.plan.model import Choice, Plan, Reason, Rejected
from bringup.plan.planner import Resolvers, Wishes, fitting_interpreters, make_plan
from bringup.plan.sequence import Given
from bringup.plan.steps import CreateEnvironment, Value
from bringup.plan.unplaced import is_brought
from bringup.plan.wanted import (
    NO_COMMIT,
    TORCH_FAMILY,
    Origin,
    Wanted,
    from_project,
    python_ranges,
    require_something,
)
from bringup.recipes.schema import Recipe

_NO_BUILD = (
    "no-torch",
    "no-torch-for-gpu",
    "no-such-torch",
    "torch-index-unreachable",
    "chip-by-ptx-alone",
    "chip-blocks",
    "driver-blocks",
    "no-python",
    "python-out-of-range",
    "no-ensurepip",
    "overlay-other-torch",
)
_NO_FIT = ("no-matching-distribution", "no-versions", "requirements-conflict", "no-end-of-resolving")
_VERSION = re.compile(r"\d[\d.]*(?:\+\w+)?")
_CUDA_LABEL = re.compile(r"-cu(?:da)?\d+x?$")
_MOST_ROUNDS = 20
_PATIENCE = 4  # rounds of freeing one pin after the other; then it is a lock made for another torch
_FIRST_FOR_NUMPY_2 = Version("2.3.0")


def loosened(requirement: Requirement) -> Requirement:
    """The requirement with its upper bounds taken off: `==1.2.3` becomes `>=1.2.3`, `<2` nothing."""
    freed = Requirement(str(requirement))
    kept = []
    for spec in requirement.specifier:
        if spec.operator in ("==", "===", "~="):
            # A local label ("+cu118") can only be asked for exactly.
            kept.append(f">={spec.version.removesuffix('.*').partition('+')[0]}")
        elif spec.operator in (">=", ">"):
            kept.append(str(spec))
    freed.specifier = SpecifierSet(",".join(kept))
    return freed


@dataclass(frozen=True)
class _Attempt:
    """What gives way in one try."""

    torch_is_free: bool
    python: str
    free: frozenset[str] = field(default=frozenset())
    left_out: frozenset[str] = field(default=frozenset())


def _attempts(wanted: Wanted) -> Iterator[_Attempt]:
    pinned = "torch" in wanted.torch and bool(str(wanted.torch["torch"][0].specifier))
    unfit = frozenset(wanted.unfit) & wanted.pins.keys()
    for python in python_ranges(wanted):
        if pinned:
            yield _Attempt(False, python, unfit)
        yield _Attempt(True, python, unfit)


def _torch_table(wanted: Wanted, attempt: _Attempt) -> dict[str, Any]:
    requirement = wanted.torch["torch"][0] if "torch" in wanted.torch else Requirement("torch")
    if attempt.torch_is_free:
        requirement = loosened(requirement)
    companions = [name for name in TORCH_FAMILY[1:] if name in wanted.torch]
    return {"range": str(requirement.specifier) or ">=1.13", "companions": companions}


def _requirements(wanted: Wanted, attempt: _Attempt) -> list[dict[str, Any]]:
    rows = []
    for key, (requirement, place) in sorted(wanted.pins.items()):
        if key in attempt.left_out:
            continue
        row: dict[str, Any] = {"spec": str(requirement)}
        if key in attempt.free:
            row["loosened"] = str(loosened(requirement))
            row["why"] = {"en": place, "zh": place}
        rows.append(row)
    torch = wanted.torch.get("torch")
    held = torch[0].specifier if torch and not attempt.torch_is_free else None
    releases = (Version(build.version) for build in load_catalog().torch_builds)
    made_for_numpy_2 = [release for release in releases if release >= _FIRST_FOR_NUMPY_2]
    any_numpy = "numpy" not in wanted.pins or not str(wanted.pins["numpy"][0].specifier)
    if held is not None and any_numpy and not any(map(held.contains, made_for_numpy_2)):
        rows = [*(row for row in rows if row["spec"] != "numpy"), {"spec": "numpy<2"}]
    return rows


def _ways(row: Extension, wanted: Wanted) -> list[str]:
    """How a known extension can come into the new environment."""
    build = row.name in wanted.local_builds or row.name in wanted.origins
    portable = row.portable and row.name not in wanted.beyond_portable
    there = (("wheel", row.wheels), ("portable", portable), ("build", build))
    return [way for way, is_there in there if is_there]


def _build_table(name: str, licence: str, wanted: Wanted) -> dict[str, Any]:
    origin = wanted.origins.get(name)
    table = {"licence": licence, "backend": "setuptools"}
    if origin is None:
        return {"folder": wanted.local_builds[name], **table}
    place = {"repository": origin.repository, "commit": origin.commit, "subfolder": origin.subfolder}
    return {**place, **table}


def _extension(row: Extension, wanted: Wanted) -> dict[str, Any]:
    ways = _ways(row, wanted)
    table: dict[str, Any] = {"distribution": row.name, "imports": list(row.imports), "ways": ways}
    if "portable" in ways:
        table["portable"] = row.portable
    if "build" in ways:
        table["build"] = _build_table(row.name, row.licence, wanted)
    return table


def _own_extensions(wanted: Wanted) -> Iterator[dict[str, Any]]:
    """Extensions that no catalog knows: the project's own, and those that the environment was given."""
    known = {row.name for row in wanted.extensions}
    nowhere = Origin("", "", "", ())
    for name in dict.fromkeys((*wanted.local_builds, *wanted.origins)):
        if name not in known:
            imports = wanted.origins.get(name, nowhere).imports
            build = _build_table(name, "of the project", wanted)
            yield {"distribution": name, "imports": list(imports), "ways": ["build"], "build": build}


def make_recipe(wanted: Wanted, attempt: _Attempt) -> Recipe:
    """The recipe that a person would have written for it.

    Raises:
        BringupError: `requirements-conflict`: a pin that nothing can fulfil.
    """
    extensions = [_extension(row, wanted) for row in wanted.extensions if row.name not in attempt.left_out]
    extensions += _own_extensions(wanted)
    imports = [*wanted.imports, *(name for row in extensions for name in row.get("imports", []))]
    probes: list[dict[str, Any]] = [{"name": "imports", "imports": list(dict.fromkeys(imports))}]
    if "torch" in wanted.imports or "torch" in wanted.torch:
        probes.append({"name": "matrix-product", "probe": "matrix_product"})
    document: dict[str, Any] = {
        "schema": "bringup/recipe/1",
        "name": wanted.name,
        "title": {"en": wanted.name, "zh": wanted.name},
        "summary": {"en": "made from what is there", "zh": "根据现有内容生成"},
        "python": attempt.python,
        "torch": _torch_table(wanted, attempt),
        "requirements": _requirements(wanted, attempt),
        "extensions": extensions,
        "needs": {"gpu": "optional"},
        "probes": probes,
        "stages": [_RUN],
    }
    if wanted.source is not None:
        document["source"] = {
            "repository": wanted.source.as_uri(),
            "commit": NO_COMMIT,
            "licence": "of the project",
        }
        document["patches"] = [_SAFE_LOAD] if wanted.loads else []
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        text = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise BringupError("requirements-conflict", subject=wanted.name, text=text) from error


_SAFE_LOAD = {
    "id": "safe-torch-load",
    "files": "**/*.py",
    "kind": "rewrite-torch-load",
    "fault": r"torch\.load",
    "why": {"en": "torch.load without weights_only", "zh": "torch.load 未指定 weights_only"},
}
_RUN = {
    "name": "run",
    "title": {"en": "Run", "zh": "运行"},
    "command": ["{arguments}"],
    "directory": "{source}",
    "modes": ["arguments"],
}


def _named_in(error: BringupError, wanted: Wanted) -> frozenset[str]:
    """The pins that an installer's refusal names; none where it is torch's, all where it names nothing."""
    text = " ".join(str(error.parameters.get(key, "")) for key in ("requirement", "text"))
    words = {canonicalize_name(word) for word in re.findall(r"[A-Za-z0-9][A-Za-z0-9._-]*[A-Za-z0-9]", text)}
    named = frozenset(words & wanted.pins.keys())
    return named or (frozenset() if "torch" in words else frozenset(wanted.pins))


def _had_nowhere(error: BringupError, named: frozenset[str], attempt: _Attempt) -> frozenset[str]:
    """The pin of which the index has no version at all, or none that fits although any would do."""
    if len(named) != 1 or error.id in ("requirements-conflict", "no-end-of-resolving"):
        return frozenset()
    return named if error.id == "no-versions" or named <= attempt.free else frozenset()


def _no_way_at_all(error: BringupError, recipe: Recipe) -> str | None:
    """The extension that cannot be had here; None where it could be compiled: the error says what lacks."""
    if error.id != "no-way-for-extension":
        return None
    row = next(row for row in recipe.extensions if row.distribution == error.parameters["extension"])
    return None if "build" in row.ways else row.distribution


def _siblings(
    nowhere: frozenset[str], wanted: Wanted, attempt: _Attempt, resolvers: Resolvers
) -> frozenset[str]:
    """Of a family for one CUDA (cudf-cu11, cuml-cu11, …) what this index lacks as well: one round for all."""
    labels = {match[0] for name in nowhere if (match := _CUDA_LABEL.search(name))}
    others = [name for name in wanted.pins if (label := _CUDA_LABEL.search(name)) and label[0] in labels]
    asked = {name: str(loosened(wanted.pins[name][0])) for name in others if name not in attempt.left_out}
    return frozenset(name for name, text in asked.items() if not resolvers.latest.has_wheel(text))


def plan_wanted(
    wanted: Wanted, machine: MachineFacts, catalog: Catalog, wishes: Wishes
) -> tuple[Plan, Recipe]:
    """Plan a new environment for a project, or in place of a broken one; and the recipe made for it.

    Raises:
        BringupError: what `make_plan` raises, once nothing is left that could give way.
    """
    last: BringupError | None = None
    if wanted.source is not None:
        wishes = replace(wishes, given=Given(wanted.source, wishes.given.weights, wishes.given.models))
    resolvers = Resolvers(wishes)
    for attempt in _attempts(wanted):
        try:
            plan, recipe, final = _loosen_until_it_fits(wanted, attempt, machine, catalog, wishes, resolvers)
        except BringupError as error:
            if error.id not in (*_NO_BUILD, *_NO_FIT) or resolvers.is_late:
                raise
            last = error
            continue
        choices = (
            *_without_torch(wanted, plan, resolvers),
            *_with_unfit(wanted, plan),
            *_said(wanted, final, plan, catalog),
            *wanted.choices,
            *_unplaced(wanted, plan, wishes),
        )
        return plan.model_copy(update={"choices": choices}), recipe
    assert last is not None
    raise last


def plan_project(
    project: ProjectFacts, machine: MachineFacts, catalog: Catalog, wishes: Wishes
) -> tuple[Plan, Recipe]:
    """Plan for a project's folder, its markers judged by the Python that is chosen.

    Raises:
        BringupError: `project-says-nothing`, and what `plan_wanted` raises.
    """
    wanted = from_project(project, catalog)
    require_something(wanted, Path(project.root))
    known = _given_python(wishes) or _first_python(wanted, machine, wishes)
    wanted = from_project(project, catalog, known.markers if known else None)
    plan, recipe = plan_wanted(wanted, machine, catalog, wishes)
    first = plan.steps[0]
    assert isinstance(first, CreateEnvironment)
    if known is None or first.interpreter == known.path:
        return plan, recipe
    # torch was to be had for another Python alone: markers may mean something else there.
    chosen = next(row for row in machine.interpreters if row.path == first.interpreter)
    again = from_project(project, catalog, chosen.markers)
    if again == wanted:
        return plan, recipe
    return plan_wanted(again, machine, catalog, replace(wishes, python=chosen.path))


def _given_python(wishes: Wishes) -> Interpreter | None:
    """The Python of a torch that is given."""
    executable = wishes.overlay and read_environment(wishes.overlay, scan=False).python.executable
    return ask(executable) if executable else None


def _first_python(wanted: Wanted, machine: MachineFacts, wishes: Wishes) -> Interpreter | None:
    """The one that is tried first; None where there is none, which planning says."""
    for allowed in python_ranges(wanted):
        try:
            return fitting_interpreters(allowed, machine, wishes)[0]
        except BringupError:  # noqa: PERF203 - the next range may have one
            continue
    return None


def _loosen_until_it_fits(
    wanted: Wanted,
    attempt: _Attempt,
    machine: MachineFacts,
    catalog: Catalog,
    wishes: Wishes,
    resolvers: Resolvers,
) -> tuple[Plan, Recipe, _Attempt]:
    for number in range(_MOST_ROUNDS):
        recipe = make_recipe(wanted, attempt)
        try:
            return make_plan(recipe, machine, catalog, wishes, resolvers), recipe, attempt
        except BringupError as error:
            if resolvers.is_late:
                raise
            if (name := _no_way_at_all(error, recipe)) is not None:
                attempt = replace(attempt, left_out=attempt.left_out | {name})
                continue
            more = _named_in(error, wanted) if error.id in _NO_FIT else frozenset()
            nowhere = frozenset() if wishes.offline else _had_nowhere(error, more, attempt)
            files = (more & wanted.files.keys()) - attempt.left_out
            # Of what came from a file its own release, or none: another may be another's.
            more -= wanted.files.keys()
            if files and not more - attempt.free:
                attempt = replace(attempt, left_out=attempt.left_out | files)
            elif nowhere - attempt.left_out:
                nowhere |= _siblings(nowhere, wanted, attempt, resolvers)
                attempt = replace(attempt, left_out=attempt.left_out | nowhere)
            elif more - attempt.free:
                more = more if number < _PATIENCE else frozenset(wanted.pins) - wanted.files.keys()
                attempt = replace(attempt, free=attempt.free | more)
            else:
                raise
    raise BringupError("requirements-conflict", subject=wanted.name, text=", ".join(sorted(attempt.free)))


def _without_torch(wanted: Wanted, plan: Plan, resolvers: Resolvers) -> Iterator[Choice]:
    """What a plan can and cannot do where nothing asks for torch: it is there because the proof needs it."""
    torch = next((row.version for row in plan.packages if row.name == "torch"), None)
    if torch is None or wanted.asks_for_torch or resolvers.needs_torch:
        return
    titles, places = ", ".join(wanted.frameworks), ", ".join(dict.fromkeys(wanted.frameworks.values()))
    named: dict[str, Value] = {"torch": torch, "frameworks": titles, "places": places}
    why = Reason(id="other-framework" if titles else "torch-for-proof", parameters=named)
    yield Choice(subject=titles or "PyTorch", chosen="!", why=why)


def _unplaced(wanted: Wanted, plan: Plan, wishes: Wishes) -> Iterator[Choice]:
    """Imports of which nothing that is locked or given has the name."""
    brought = {canonicalize_name(row.name) for row in plan.packages}
    if wishes.overlay:
        given = read_environment(wishes.overlay, scan=False).distributions
        brought |= {canonicalize_name(name) for row in given for name in (row.name, *row.import_names)}
    for module, place in wanted.unplaced.items():
        if not is_brought(module, brought):
            why = Reason(id="import-unplaced", parameters={"place": place})
            yield Choice(subject=module, chosen="–", why=why)


def _with_unfit(wanted: Wanted, plan: Plan) -> Iterator[Choice]:
    """The plan's choices; of each extension also why the installed one does not stay."""
    for choice in plan.choices:
        carried = wanted.unfit.get(canonicalize_name(choice.subject))
        if carried is None:
            yield choice
            continue
        named: dict[str, Value] = {"carried": carried, "gpus": ", ".join(plan.gpus)}
        why = Reason(id="installed-without-code", parameters=named)
        rejected = (Rejected(what="✗", why=why), *choice.rejected)
        yield choice.model_copy(update={"rejected": rejected})


def _why_moved(key: str, requirement: Requirement, wanted: Wanted, plan: Plan, catalog: Catalog) -> str:
    """The reason's id: what is pinned has no code for the GPUs, follows torch, or does not fit the others."""
    if not plan.gpus or (key not in TORCH_FAMILY and key not in wanted.unfit):
        return "pin-loosened"
    if key in wanted.unfit:
        return "pin-moved-for-gpu"
    chips = [ComputeCapability.parse(name) for name in plan.gpus]
    for build in catalog.torch_builds:
        version = build.version if key == "torch" else getattr(build, key)
        pinned = version is not None and requirement.specifier.contains(version, prereleases=True)
        offered = pinned and build.cuda and plan.platform in build.platforms
        if offered and all(catalog.torch_runs_on(build, chip, plan.platform) for chip in chips):
            return "pin-loosened" if key == "torch" else "pin-follows-torch"
    return "pin-moved-for-gpu"


def _said(wanted: Wanted, attempt: _Attempt, plan: Plan, catalog: Catalog) -> Iterator[Choice]:
    """Every pin that is not met as it was written, what stands in its place, and what could not be had."""
    locked = {canonicalize_name(row.name): row.version for row in plan.packages}
    # A torch that is given stands among no packages.
    given = [row.chosen for row in plan.choices if row.subject == "torch" and "torch" not in locked]
    locked |= {canonicalize_name("torch"): text for text in given if _VERSION.fullmatch(text)}
    rows: Mapping[str, tuple[Requirement, str]] = {**wanted.pins, **wanted.torch}
    needed_files = attempt.left_out & wanted.files.keys()
    for key, (requirement, place) in sorted(rows.items()):
        version = locked.get(canonicalize_name(key))
        if version is None or requirement.specifier.contains(version, prereleases=True):
            continue
        if key in needed_files:
            continue
        is_given = key == "torch" and bool(given)
        why = "pin-beside-given" if is_given else _why_moved(key, requirement, wanted, plan, catalog)
        named = {"pin": str(requirement), "file": place, "gpus": ", ".join(plan.gpus)}
        reason = Reason(id=why, parameters=dict(named))
        yield Choice(subject=key, chosen=version, why=reason)
    for row in wanted.extensions:
        if row.name in attempt.left_out:
            reason = Reason(id="extension-by-hand", parameters={"text": row.build or row.repository})
            yield Choice(subject=row.name, chosen="–", why=reason)
    for key in sorted(attempt.left_out & wanted.pins.keys()):
        if key in locked and key not in needed_files:
            continue  # Something else brings another release of it, which is said above.
        requirement, place = wanted.pins[key]
        came_from = wanted.files.get(key)
        why = "file-needed" if came_from else "pin-nowhere"
        reason = Reason(id=why, parameters={"pin": str(requirement), "file": came_from or place})
        yield Choice(subject=key, chosen="–", why=reason)
    for script in wanted.entry_points[:8]:
        yield Choice(
            subject=script,
            chosen="▶",
            why=Reason(id="entry-point", parameters={"script": shlex.quote(script)}),
        )
