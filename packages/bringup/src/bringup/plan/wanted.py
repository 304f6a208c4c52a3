"""What somebody else's project or broken environment asks for, in the planner's terms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bringup.catalog import Catalog
from bringup.catalog.schema import Extension
from bringup.errors import BringupError
from bringup.facts.environment import EnvironmentFacts
from bringup.facts.environment_distributions import Distribution
from bringup.facts.project import Link, ProjectFacts
from bringup.plan.model import Choice, Reason

TORCH_FAMILY = ("torch", "torchvision", "torchaudio")
# Brought by torch itself, or by conda beside it: what the new torch needs comes with it.
_COMES_WITH_TORCH = frozenset(
    ("triton", "pytorch", "pytorch-cuda", "pytorch-mutex", "cudatoolkit", "cuda-toolkit", "cudnn", "nccl")
)
_TOOLS = (
    "python",
    "pip",
    "setuptools",
    "wheel",
    "conda",
    "cmake",
    "ninja",
    "gcc",
    "gxx",
    "cuda",
    "cuda-nvcc",
)


@dataclass
class Wanted:
    """Collected wishes.

    Attributes:
        name: of the new environment.
        source: the project's folder, None for an environment.
        python: version ranges.
        pins: other distributions, each name once, with where it stands.
        torch: what is said of torch, torchvision and torchaudio.
        extensions: catalog rows of compiled extensions that are used; `versions`: as pinned.
        local_builds: extension folders of the project itself, by distribution name.
        choices: what was left out, and why.
        imports: modules that must import in the end.
        loads: whether `torch.load` calls need rewriting.
        entry_points: scripts that may be what the user wants to run.
    """

    name: str
    source: Path | None = None
    python: list[str] = field(default_factory=list)
    pins: dict[str, tuple[Requirement, str]] = field(default_factory=dict)
    torch: dict[str, tuple[Requirement, str]] = field(default_factory=dict)
    extensions: list[Extension] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    local_builds: dict[str, str] = field(default_factory=dict)
    choices: list[Choice] = field(default_factory=list)
    imports: list[str] = field(default_factory=list)
    loads: bool = False
    entry_points: tuple[str, ...] = ()

    def leave_out(self, what: str, why: str, **parameters: str) -> None:
        """Say that something is not installed."""
        if all(choice.subject != what for choice in self.choices):
            reason = Reason(id=why, parameters=dict(parameters))
            self.choices.append(Choice(subject=what, chosen="–", why=reason))


def _environment_name(folder: Path) -> str:
    name = "".join(char if char.isalnum() or char in "._-" else "-" for char in folder.resolve().name)
    return name.strip("-._").lower() or "project"


def _is_brought(key: str) -> bool:
    return key in _COMES_WITH_TORCH or key.startswith(("nvidia-", "cuda-"))


def _add(wanted: Wanted, requirement: Requirement, place: str, catalog: Catalog) -> None:
    key = canonicalize_name(requirement.name)
    if key in TORCH_FAMILY:
        wanted.torch.setdefault(key, (requirement, place))
    elif _is_brought(key) or key in _TOOLS:
        if key == "python" and str(requirement.specifier):
            wanted.python.append(str(requirement.specifier))
    elif (row := catalog.extension(key)) is not None:
        pinned = [spec.version for spec in requirement.specifier if spec.operator == "=="]
        if pinned:
            wanted.versions.setdefault(row.name, pinned[0])
        if row not in wanted.extensions:
            wanted.extensions.append(row)
    else:
        plain = requirement
        plain.url = None
        wanted.pins.setdefault(key, (plain, place))


def _by_import(module: str, catalog: Catalog) -> Extension | None:
    return next((row for row in catalog.extensions if module in row.imports), None)


def _add_link(wanted: Wanted, link: Link, project: ProjectFacts, catalog: Catalog) -> None:
    """An address or folder: a known extension, one of the project's own, or something to do by hand."""
    if link.name in (".", ""):
        return
    row = catalog.extension(link.name)
    if row is not None:
        if row not in wanted.extensions:
            wanted.extensions.append(row)
        return
    place = f"{link.file}:{link.line}"
    folder = str(PurePosixPath(link.file).parent / link.text.removeprefix("./")).removeprefix("./")
    if any(str(PurePosixPath(build).parent) == folder for build in project.extension_builds):
        return  # `_add_builds` takes it
    wanted.leave_out(link.name, "link-by-hand", text=link.text, place=place)


def _add_builds(wanted: Wanted, project: ProjectFacts, catalog: Catalog) -> None:
    """The project's own CUDA extensions, where no replacement or wheel is known for them."""
    for build in project.extension_builds:
        folder = str(PurePosixPath(build).parent)
        name = canonicalize_name(_environment_name(Path(project.root) / folder))
        row = catalog.extension(name)
        if row is not None:
            wanted.local_builds.setdefault(row.name, folder)
            if row not in wanted.extensions:
                wanted.extensions.append(row)
        elif not any(folder.startswith(f"{other}/") for other in wanted.local_builds.values()):
            wanted.local_builds.setdefault(name, folder)


def from_project(project: ProjectFacts, catalog: Catalog) -> Wanted:
    """What a project's files ask for."""
    root = Path(project.root)
    wanted = Wanted(_environment_name(root), root, list(project.requires_python))
    for pin in project.pins:
        _add(wanted, pin.requirement, f"{pin.file}:{pin.line}", catalog)
    for link in project.links:
        _add_link(wanted, link, project, catalog)
    _add_builds(wanted, project, catalog)
    for module in project.imports:
        row = _by_import(module, catalog)
        if row is not None and row not in wanted.extensions:
            wanted.extensions.append(row)
    replaceable = [
        row for row in wanted.extensions if row.portable or row.wheels or row.name in wanted.local_builds
    ]
    for row in [row for row in replaceable if not _is_imported(row, project)]:
        wanted.extensions.remove(row)
        wanted.local_builds.pop(row.name, None)
        wanted.leave_out(row.name, "extension-drop")
    if "torch" in project.imports:
        wanted.imports.append("torch")
    for module in TORCH_FAMILY[1:]:
        if module in project.imports:
            wanted.torch.setdefault(module, (Requirement(module), project.imports[module]))
        elif wanted.torch.pop(module, None):
            wanted.leave_out(module, "extension-drop")
    wanted.loads = any(load.weights_only == "missing" for load in project.torch_loads)
    wanted.entry_points = project.entry_points
    return wanted


def _is_imported(row: Extension, project: ProjectFacts) -> bool:
    """Whether the project itself imports it; that a dependency does shows when the environment is proved."""
    return any(name.split(".")[0] in project.imports for name in row.imports)


def from_environment(environment: EnvironmentFacts, catalog: Catalog) -> Wanted:
    """What a broken environment holds, so that a new one can hold it too."""
    root = Path(environment.root)
    name = root.parent.name if root.name in (".venv", "venv", "env") else root.name
    wanted = Wanted(_environment_name(root.with_name(name)))
    if environment.python.version:
        major, minor = environment.python.version.split(".")[:2]
        wanted.python.append(f"=={major}.{minor}.*")
    for row in _first_of_each(environment):
        if row.direct_url or row.editable:
            known = catalog.extension(row.key)
            if known is None and row.key not in TORCH_FAMILY:
                wanted.leave_out(
                    row.name, "link-by-hand", text=str(row.direct_url or row.editable), place=str(root)
                )
                continue
        version = row.version.partition("+")[0] if row.version else None
        requirement = Requirement(f"{row.name}=={version}" if version else row.name)
        _add(wanted, requirement, str(root), catalog)
    wanted.imports += [name for name in TORCH_FAMILY if name in wanted.torch]
    return wanted


def _first_of_each(environment: EnvironmentFacts) -> Iterator[Distribution]:
    seen: set[str] = set()
    for row in environment.distributions:
        if row.key not in seen:
            seen.add(row.key)
            yield row


def python_ranges(wanted: Wanted) -> Sequence[str]:
    """The ranges to try, the nearest to what is written first; the last is what this tool itself needs."""
    written = ",".join(dict.fromkeys(wanted.python))
    return [written, ">=3.10"] if written else [">=3.10"]


def require_something(wanted: Wanted, origin: Path) -> None:
    """Refuse a folder that asks for nothing.

    Raises:
        BringupError: `project-says-nothing`.
    """
    if not (wanted.pins or wanted.torch or wanted.extensions or wanted.local_builds or wanted.imports):
        raise BringupError("project-says-nothing", exit_code=2, path=origin)
