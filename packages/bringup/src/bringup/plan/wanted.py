"""What somebody else's project or broken environment asks for, in the planner's terms."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse
from urllib.request import url2pathname

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import NormalizedName, canonicalize_name

from bringup.binaries.architectures import ComputeCapability
from bringup.catalog import Catalog
from bringup.catalog.schema import Extension
from bringup.errors import BringupError
from bringup.facts.conda_names import may_be_a_program
from bringup.facts.environment import EnvironmentFacts
from bringup.facts.environment_distributions import Distribution
from bringup.facts.project import Link, Pin, ProjectFacts, read_project
from bringup.facts.project_requirements import ENVIRONMENT_FOLDERS
from bringup.findings.kernel_images import chosen_libraries, importance, is_loadable
from bringup.plan.frameworks import other_frameworks
from bringup.plan.model import Choice, Reason
from bringup.plan.undeclared import undeclared
from bringup.plan.unplaced import imports_from_elsewhere, is_brought
from bringup.recipes.fields import contradicts

TORCH_FAMILY = ("torch", "torchvision", "torchaudio")
# Brought by torch itself, or by conda beside it: what the new torch needs comes with it.
_COMES_WITH_TORCH = frozenset(
    ("triton", "pytorch", "pytorch-cuda", "pytorch-mutex", "cudatoolkit", "cuda-toolkit", "cudnn", "nccl")
)
_HEADLESS = "opencv-python-headless"
_LOCAL_LABEL = re.compile(r"\+[A-Za-z0-9._-]+")
NO_COMMIT = "0" * 40  # of a folder, whose content is compared instead
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


@dataclass(frozen=True)
class Origin:
    """Where an installed extension was built from: a repository at a commit, or a folder (its file URL)."""

    repository: str
    commit: str
    subfolder: str
    imports: tuple[str, ...]


@dataclass
class Wanted:
    """Collected wishes.

    Attributes:
        name: of the new environment.
        source: the project's folder, None for an environment.
        python: version ranges.
        pins: other distributions, each name once, with where it stands.
        torch: what is said of torch, torchvision and torchaudio.
        extensions: catalog rows of compiled extensions that are used; `extension_pins` as they are asked for.
        beyond_portable: extensions of which more is used than their replacement holds, and what.
        local_builds: extension folders of the project itself, by distribution name.
        origins: of the environment's extensions that can be built again, by distribution name.
        files: of what was installed from a wheel or an archive, where that lay.
        unfit: what is installed without code for the GPUs, and the machine code that it carries.
        choices: what was left out, and why.
        frameworks: others than PyTorch that compute on GPUs → the first place that names them.
        unplaced: modules that are imported and of nothing that is asked for → the first place.
        imports: modules that must import in the end.
        loads: whether `torch.load` calls need rewriting.
        entry_points: scripts that may be what the user wants to run.
        markers: of the Python that is planned for (`Interpreter.markers`); empty: of the one that runs this.
    """

    name: str
    source: Path | None = None
    python: list[str] = field(default_factory=list)
    pins: dict[str, tuple[Requirement, str]] = field(default_factory=dict)
    torch: dict[str, tuple[Requirement, str]] = field(default_factory=dict)
    extensions: list[Extension] = field(default_factory=list)
    extension_pins: dict[str, tuple[Requirement, str]] = field(default_factory=dict)
    beyond_portable: dict[str, str] = field(default_factory=dict)
    local_builds: dict[str, str] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    unfit: dict[str, str] = field(default_factory=dict)
    choices: list[Choice] = field(default_factory=list)
    frameworks: dict[str, str] = field(default_factory=dict)
    unplaced: dict[str, str] = field(default_factory=dict)
    imports: list[str] = field(default_factory=list)
    loads: bool = False
    entry_points: tuple[str, ...] = ()
    markers: Mapping[str, str] = field(default_factory=dict, compare=False)

    def holds(self, requirement: Requirement) -> bool:
        """Whether it is asked for at all, by its marker."""
        return requirement.marker is None or requirement.marker.evaluate(dict(self.markers))

    @property
    def asks_for_torch(self) -> bool:
        """Whether torch itself, what comes with it, or something compiled against it is asked for."""
        named = (self.torch, self.imports, self.extensions, self.local_builds, self.origins)
        return any(named) or any("torch" in row.extras for row, _ in self.pins.values())

    def leave_out(self, what: str, why: str, **parameters: str) -> None:
        """Say that something is not installed."""
        if all(choice.subject != what for choice in self.choices):
            reason = Reason(id=why, parameters=dict(parameters))
            self.choices.append(Choice(subject=what, chosen="–", why=reason))


def _environment_name(folder: Path) -> str:
    """ASCII, as recipes and environments are named: «modele» of «Modèle», «project-79f326» of «项目».

    What cannot be spelled so is told apart by a hash of the whole name.
    """
    written = unicodedata.normalize("NFKD", folder.resolve().name.casefold())
    letters = "".join(sign for sign in written if not unicodedata.combining(sign))
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", letters).strip("-._") or "project"
    if any(not sign.isascii() and unicodedata.category(sign)[0] in "LNC" for sign in letters):
        name += f"-{hashlib.sha256(written.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"
    return name


def _is_brought(key: str) -> bool:
    return key in _COMES_WITH_TORCH or key.startswith(("nvidia-", "cuda-"))


def _add(wanted: Wanted, requirement: Requirement, place: str, catalog: Catalog) -> None:
    key = canonicalize_name(requirement.name)
    if key in TORCH_FAMILY:
        # Which CUDA it is built for follows from the GPUs: `==2.0.1+cu118` asks for 2.0.1.
        requirement.specifier = SpecifierSet(_LOCAL_LABEL.sub("", str(requirement.specifier)))
        if wanted.holds(requirement):
            _join(wanted, wanted.torch, key, requirement, place)
    elif _is_brought(key) or key in _TOOLS:
        if key == "python" and str(requirement.specifier):
            wanted.python.append(str(requirement.specifier))
    elif (row := catalog.extension(key)) is not None:
        if not wanted.holds(requirement):
            return
        _join(wanted, wanted.extension_pins, row.name, requirement, place)
        if row not in wanted.extensions:
            wanted.extensions.append(row)
    else:
        _join(wanted, wanted.pins, key, requirement, place)


def _join(
    wanted: Wanted,
    rows: dict[str, tuple[Requirement, str]],
    key: str,
    requirement: Requirement,
    place: str,
) -> None:
    """Of several requirements of one name all bounds hold, and the extras of all are asked for.

    Where the bounds contradict each other the first stay, and the choices say so.
    """
    if key not in rows or not wanted.holds(rows[key][0]):
        # One whose marker does not hold pip leaves out itself.
        rows[key] = (requirement, place)
        return
    if not wanted.holds(requirement):
        return
    first, first_place = rows[key]
    both = Requirement(str(first))
    both.extras = first.extras | requirement.extras
    joined = first.specifier & requirement.specifier
    is_told = _speaks_of_the_whole(place) and joined != first.specifier
    if is_told and contradicts(str(joined)):
        named = {"place": first_place, "other": str(requirement), "at": place}
        why = Reason(id="bounds-contradict", parameters=dict(named))
        wanted.choices.append(Choice(subject=key, chosen=str(first.specifier), why=why))
    elif is_told:
        both.specifier = joined
        first_place += f", {place}"
    rows[key] = (both, first_place)


def _speaks_of_the_whole(place: str) -> bool:
    """Whether a file is the project's and not of one of its parts: at the top, or in `requirements/`.

    What a Dockerfile pins is of its image: it does not narrow what other files ask for.
    """
    path = PurePosixPath(place.rpartition(":")[0].lower())
    folders = path.parts[:-1]
    at_its_place = not folders or (len(folders) == 1 and folders[0] in ENVIRONMENT_FOLDERS)
    return at_its_place and "dockerfile" not in path.name


def _settle_extensions(wanted: Wanted, places: Mapping[str, str]) -> None:
    """Extensions for which there is no wheel index, replacement or source here: as any other distribution.

    Those that live in a repository alone are named, never looked up on an index: the name may be another's
    there (apex is).
    """
    for row in list(wanted.extensions):
        here = row.name in wanted.local_builds or row.name in wanted.origins
        if (row.portable and row.name not in wanted.beyond_portable) or row.wheels or here:
            continue
        wanted.extensions.remove(row)
        place = next((places[name] for name in row.imports if name in places), row.repository)
        requirement, place = wanted.extension_pins.get(row.name, (Requirement(row.name), place))
        if row.name in wanted.beyond_portable and row.build:
            names = wanted.beyond_portable[row.name]
            wanted.leave_out(row.name, "extension-beyond-portable", names=names, text=row.build)
        elif row.build and "git+" in row.build:
            wanted.leave_out(row.name, "link-by-hand", text=row.build, place=place)
        else:
            wanted.pins.setdefault(row.name, (requirement, place))


def _by_import(module: str, catalog: Catalog) -> Extension | None:
    return next((row for row in catalog.extensions if module in row.imports), None)


def _by_repository(name: str, catalog: Catalog) -> Extension | None:
    """`git+https://…/tiny-cuda-nn` installs tinycudann."""
    named = (row for row in catalog.extensions if row.repository.rpartition("/")[2] == name)
    return next(named, None)


def _add_link(wanted: Wanted, link: Link, project: ProjectFacts, catalog: Catalog) -> None:
    """An address or folder: a known extension, one of the project's own, or something to do by hand."""
    if link.name in (".", ""):
        return
    row = catalog.extension(link.name) or _by_repository(link.name, catalog)
    if row is not None:
        if row not in wanted.extensions:
            wanted.extensions.append(row)
        return
    place = f"{link.file}:{link.line}"
    folder = str(PurePosixPath(link.file).parent / link.text.removeprefix("./")).removeprefix("./")
    if any(str(PurePosixPath(build).parent) == folder for build in project.extension_builds):
        return  # `_add_builds` takes it
    wanted.leave_out(link.name, "link-by-hand", text=link.text, place=place)


def _distribution_name(folder: str, project: ProjectFacts) -> str:
    """The name under which a folder of the project installs itself; its own where its files do not say."""
    return project.distributions.get(folder) or _environment_name(Path(project.root, folder))


def _installs(folder: Path) -> bool:
    """Whether pip can install a folder."""
    return any((folder / name).is_file() for name in ("setup.py", "pyproject.toml"))


def _add_builds(wanted: Wanted, project: ProjectFacts, catalog: Catalog) -> None:
    """The project's own CUDA extensions, where no replacement or wheel is known for them."""
    of_python = [build for build in project.extension_builds if _installs(Path(project.root, build).parent)]
    for build in project.extension_builds:
        if build not in of_python:
            # CMake alone: part of what a setup.py above it compiles, or a program that pip does not install.
            parents = PurePosixPath(build).parents
            if not any(PurePosixPath(other).parent in parents for other in of_python):
                wanted.leave_out(build, "cmake-by-hand", folder=str(Path(project.root, build).parent))
            continue
        folder = str(PurePosixPath(build).parent)
        name = canonicalize_name(_distribution_name(folder, project))
        row = catalog.extension(name)
        if row is not None:
            wanted.local_builds.setdefault(row.name, folder)
            if row not in wanted.extensions:
                wanted.extensions.append(row)
        elif not any(folder.startswith(f"{other}/") for other in wanted.local_builds.values()):
            wanted.local_builds.setdefault(name, folder)


def _leave_out_own(wanted: Wanted, project: ProjectFacts) -> None:
    """What lies in the project's folder: an index may hold another's under its name, or another release."""
    own = project.own_distributions
    for key in sorted(wanted.pins.keys() & own.keys()):
        requirement, place = wanted.pins.pop(key)
        folder = own[key]
        if key not in wanted.local_builds and folder != ".":
            wanted.leave_out(requirement.name, "own-folder", folder=shlex.quote(f"./{folder}"), place=place)


def _is_program(pin: Pin, project: ProjectFacts) -> bool:
    """Whether what conda installs is a program or library, and nothing that the project imports."""
    name = pin.requirement.name
    if not pin.channel or not may_be_a_program(name, pin.channel):
        return False
    imported = project.imports.keys() - project.own_modules
    return not any(is_brought(module, (canonicalize_name(name),)) for module in imported)


def from_project(project: ProjectFacts, catalog: Catalog, markers: Mapping[str, str] | None = None) -> Wanted:
    """What a project's files ask for, for the Python of these `markers`."""
    root = Path(project.root)
    wanted = Wanted(_environment_name(root), root, list(project.requires_python), markers=markers or {})
    for pin in _needed(project):
        place = f"{pin.file}:{pin.line}"
        if _is_program(pin, project):
            wanted.leave_out(pin.requirement.name, "conda-program", place=place)
        else:
            _add(wanted, pin.requirement, place, catalog)
    for file in project.recorded:
        wanted.leave_out(file, "environment-recorded")
    if any(key.startswith("opencv-") and key != _HEADLESS for key in wanted.pins):
        wanted.pins.pop(_HEADLESS, None)  # conda's `opencv` beside a pip name: both write the module cv2
    for link in project.links:
        _add_link(wanted, link, project, catalog)
    _add_builds(wanted, project, catalog)
    _leave_out_own(wanted, project)
    for module in project.imports:
        row = _by_import(module, catalog)
        if row is not None and row not in wanted.extensions:
            wanted.extensions.append(row)
    for row in wanted.extensions:
        if beyond := _beyond_portable(row, project):
            wanted.beyond_portable[row.name] = beyond
    replaceable = [
        row for row in wanted.extensions if row.portable or row.wheels or row.name in wanted.local_builds
    ]
    for row in [row for row in replaceable if not _is_imported(row, project)]:
        wanted.extensions.remove(row)
        wanted.local_builds.pop(row.name, None)
        wanted.leave_out(row.name, "extension-drop")
    _settle_extensions(wanted, project.imports)
    wanted.imports += [module for module in TORCH_FAMILY if module in project.imports]
    for module in TORCH_FAMILY[1:]:
        if module in project.imports:
            wanted.torch.setdefault(module, (Requirement(module), project.imports[module]))
        elif wanted.torch.pop(module, None):
            wanted.leave_out(module, "extension-drop")
    for name, place in undeclared(project, wanted.pins.keys() | project.own_distributions.keys()):
        wanted.pins[canonicalize_name(name)] = (Requirement(name), place)
        why = Reason(id="import-undeclared", parameters={"place": place})
        wanted.choices.append(Choice(subject=name, chosen="+", why=why))
    for group, place in project.groups_left_out:
        wanted.leave_out(f"[{group}]", "group-for-developers", place=place)
    for file, text in project.unreadable[:5]:
        wanted.leave_out(file, "file-unread", text=text)
    wanted.frameworks = _frameworks(wanted, project.needed_imports)
    wanted.unplaced = _unplaced(project, catalog, wanted.local_builds)
    wanted.loads = any(load.weights_only == "missing" for load in project.torch_loads)
    wanted.entry_points = project.entry_points
    return wanted


def _frameworks(wanted: Wanted, imports: Mapping[str, str]) -> dict[str, str]:
    return other_frameworks(((key, place) for key, (_, place) in wanted.pins.items()), imports)


def _unplaced(project: ProjectFacts, catalog: Catalog, builds: Iterable[str]) -> dict[str, str]:
    """Modules from elsewhere, but those that are asked for by name or built here, and known extensions."""
    named = [pin.requirement.name for pin in project.pins] + [link.name for link in project.links]
    own = _distribution_name(".", project)
    asked = {canonicalize_name(name) for name in (*named, own, *builds, *TORCH_FAMILY)}
    return {
        module: place
        for module, place in imports_from_elsewhere(project)
        if not is_brought(module, asked) and _by_import(module, catalog) is None
    }


def _needed(project: ProjectFacts) -> Iterator[Pin]:
    """What was written by hand, at the releases that a record of one machine's environment has of it, where
    that is allowed; then what else of the record the project imports.

    The rest of such a record was needed by others, in versions that fit its own torch alone.
    """
    imported = project.imports.keys() - project.own_modules
    by_hand: list[tuple[NormalizedName, Pin]] = []
    recorded: dict[NormalizedName, Pin] = {}
    for pin in project.pins:
        key = canonicalize_name(pin.requirement.name)
        if pin.file not in project.recorded:
            by_hand.append((key, pin))
        elif key in (*TORCH_FAMILY, "python") or any(is_brought(module, (key,)) for module in imported):
            recorded.setdefault(key, pin)
    named = {key for key, _ in by_hand}
    for key, pin in by_hand:
        exact = recorded.get(key)
        yield exact if exact is not None and _allows(pin.requirement, exact.requirement) else pin
    for key, pin in recorded.items():
        # Written by hand, torch goes with any Python; the recorded one had none for today's chips.
        if key not in named and not (key == "python" and "torch" in named):
            yield pin


def _allows(written: Requirement, exact: Requirement) -> bool:
    """Whether a requirement holds at another's release, `==1.26.0`; markers and extras stay as written."""
    versions = [row.version for row in exact.specifier if row.operator == "==" and row.version[-1] != "*"]
    plain = written.marker is None and not written.extras
    return plain and len(versions) == 1 and written.specifier.contains(versions[0], prereleases=True)


def _beyond_portable(row: Extension, project: ProjectFacts) -> str:
    """What the project imports of an extension that its replacement does not hold; "" where nothing."""
    if not row.portable_names:
        return ""
    below = tuple(f"{name}." for name in row.imports)
    held = tuple(f"{name}." for name in row.portable_names)
    used = [name for name in sorted(project.imported_names) if name.startswith(below)]
    return ", ".join([name for name in used if not f"{name}.".startswith(held)][:3])


def _is_imported(row: Extension, project: ProjectFacts) -> bool:
    """Whether the project itself imports it; that a dependency does shows when the environment is proved."""
    return any(name.split(".")[0] in project.imports for name in row.imports)


def from_environment(
    environment: EnvironmentFacts,
    catalog: Catalog,
    gpus: Sequence[ComputeCapability] = (),
    shown: Sequence[str] = (),
) -> Wanted:
    """What a broken environment holds, so that a new one can hold it too.

    Args:
        environment: scanned, if the pins without code for `gpus` are to be known.
        shown: folders of an overlay: what lies there is not installed again.
    """
    root = Path(environment.root)
    name = root.parent.name if root.name in (".venv", "venv", "env") else root.name
    wanted = Wanted(_environment_name(root.with_name(name)))
    if environment.python.version:
        major, minor = environment.python.version.split(".")[:2]
        wanted.python.append(f"=={major}.{minor}.*")
    wanted.unfit = _without_code(environment, gpus)
    given = {os.path.realpath(folder) for folder in shown}
    for row in _first_of_each(environment):
        if os.path.realpath(row.site) in given and row.key not in TORCH_FAMILY:
            continue
        if (row.direct_url or row.editable) and row.key not in TORCH_FAMILY:
            origin = _origin(row)
            if origin is not None:
                wanted.origins[row.key] = origin
            if catalog.extension(row.key) is None:
                where = str(row.direct_url or row.editable)
                if origin is None and row.version and _is_archive(where) and row.key not in wanted.unfit:
                    wanted.files[row.key] = where
                elif origin is None:
                    wanted.leave_out(row.name, "link-by-hand", text=where, place=str(root))
                if row.key not in wanted.files:
                    continue
        version = row.version.partition("+")[0] if row.version else None
        requirement = Requirement(f"{row.name}=={version}" if version else row.name)
        _add(wanted, requirement, str(root), catalog)
    _settle_extensions(wanted, {})
    wanted.frameworks = _frameworks(wanted, {})
    wanted.imports += [name for name in TORCH_FAMILY if name in wanted.torch]
    return wanted


def _is_archive(url: str) -> bool:
    """A wheel or source archive: an index may have the same release."""
    return urlparse(url).path.endswith((".whl", ".tar.gz", ".tar.bz2", ".zip"))


def _origin(row: Distribution) -> Origin | None:
    """Where a compiled extension can be built from again; None for all else."""
    url = urlparse(row.direct_url or Path(str(row.editable)).as_uri())
    if url.scheme == "file" and not row.commit:
        folder = Path(url2pathname(url.path))
        if not folder.is_dir() or not (row.binaries or _builds_extensions(folder)):
            return None
        return Origin(folder.as_uri(), NO_COMMIT, "", row.import_names)
    if not row.commit or not row.binaries or row.direct_url is None:
        return None
    return Origin(row.direct_url, row.commit, row.subfolder, row.import_names)


def _builds_extensions(folder: Path) -> bool:
    project = read_project(folder)
    return bool(project.extension_builds or project.cuda_sources)


def _without_code(environment: EnvironmentFacts, gpus: Sequence[ComputeCapability]) -> dict[str, str]:
    """Distributions with a library that stops on one of these chips, and what it carries."""
    found: dict[str, str] = {}
    reports = [row for row in environment.binaries if row.has_device_code and is_loadable(row)]
    for gpu in gpus:
        for report in chosen_libraries(reports, gpu):
            owner = environment.owner(report.path)
            stops = report.runs_on(gpu).status == "no"
            if owner and stops and importance(environment, report) == "error":
                found.setdefault(owner.key, " ".join(report.machine_code) or "–")
    return found


def _first_of_each(environment: EnvironmentFacts) -> Iterator[Distribution]:
    seen: set[str] = set()
    for row in environment.distributions:
        if row.key not in seen:
            seen.add(row.key)
            yield row


def python_ranges(wanted: Wanted) -> Sequence[str]:
    """The ranges to try, the nearest to what is written first; the last is what this tool itself needs."""
    written = str(SpecifierSet(",".join(wanted.python)))
    if not written or written == ">=3.10" or contradicts(written):
        return [">=3.10"]
    return [written, ">=3.10"]


def require_something(wanted: Wanted, origin: Path) -> None:
    """Refuse a folder that asks for nothing.

    Raises:
        BringupError: `project-says-nothing`.
    """
    asked = (
        wanted.pins,
        wanted.torch,
        wanted.extensions,
        wanted.local_builds,
        wanted.origins,
        wanted.imports,
    )
    if not any(asked):
        raise BringupError("project-says-nothing", exit_code=2, path=origin)
