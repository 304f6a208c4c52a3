"""What an image will hold: recipe + catalog + GPUs → base, torch, packages, extensions, edits.

Nothing is asked of an index here: packages are resolved inside the builder stage, by the base's own Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from bringup.binaries.architectures import ComputeCapability
from bringup.catalog import Catalog
from bringup.catalog.schema import TorchBuild
from bringup.errors import BringupError
from bringup.facts.gpus import DriverFacts
from bringup.plan.own_packages import OwnPackage, find_own_package
from bringup.recipes.schema import CheckpointRow, ExtensionRow, PatchRow, Recipe, TorchRange

_SLIM = "docker.io/library/python:{version}-slim-bookworm"
_SLIM_PYTHON = "/usr/local/bin/python3"
_NEWEST_SLIM = Version("3.13")
_OLDEST_PORTABLE = ComputeCapability(7, 5)  # the oldest chip that NVRTC 13 makes code for
PORTABLE = "portable-kernels"


@dataclass(frozen=True)
class ImageWishes:
    """What the user asked for beyond the recipe.

    Attributes:
        gpus: chips to serve; empty means the CPU.
        driver: of this machine, where the image will run here; None when planning for another.
        base: another base image; `python`, `python_version`: its interpreter.
        keep_torch: the base's own torch is used as it is (NGC's images).
        find_links: folders of wheels that the build may use as well; `offline`: them alone.
        source: a local copy of the workload's code, instead of the recipe's repository or what the base has.
    """

    gpus: tuple[ComputeCapability, ...] = ()
    driver: DriverFacts | None = None
    on_windows: bool = False
    architecture: str = "x86_64"
    profile: str | None = None
    base: str | None = None
    python: str | None = None
    python_version: str | None = None
    keep_torch: bool = False
    find_links: tuple[Path, ...] = field(default=())
    offline: bool = False
    source: Path | None = None


@dataclass(frozen=True)
class ExtensionChoice:
    """How an extension comes into the image: the ways that are tried, in order."""

    row: ExtensionRow
    ways: tuple[str, ...]


@dataclass(frozen=True)
class ImageSpec:
    """Everything that the Dockerfile is made of.

    Attributes:
        base: image reference. `python`: its interpreter that runs the workload.
        torch: the build that is installed; None keeps the base's.
        requirements: as pip reads them, torch and its companions first.
        index: PyTorch's own wheel index, where the build is not on the package index.
        drop: distributions of the base that go, files and all.
        imports: modules that must import in the finished image.
        source: where the workload's code lies in the image; `fetched`: the build brings it there, from
            `local` where the user gave a copy.
    """

    recipe: Recipe
    profile: str
    gpus: tuple[ComputeCapability, ...]
    base: str
    python: str
    python_version: str
    torch: TorchBuild | None
    requirements: tuple[str, ...]
    index: str | None
    own: tuple[OwnPackage, ...]
    extensions: tuple[ExtensionChoice, ...]
    drop: tuple[str, ...]
    patches: tuple[PatchRow, ...]
    checkpoints: tuple[CheckpointRow, ...]
    imports: tuple[str, ...]
    source: str
    fetched: bool
    find_links: tuple[Path, ...] = ()
    offline: bool = False
    local: Path | None = None

    @property
    def tag(self) -> str:
        """Name of the image that is made: that of the base with the recipe's name, or the recipe's own."""
        chips = "-".join(gpu.sm.replace("_", "") for gpu in self.gpus) or "cpu"
        suffix = "" if self.profile == self.recipe.default_profile else f"-{self.profile}"
        return f"bringup/{self.recipe.name}{suffix}:{chips}"

    @property
    def toolkit(self) -> str | None:
        """CUDA of the compiler that the builder stage needs; None where nothing may be compiled."""
        builds = any("build" in choice.ways for choice in self.extensions)
        return self.torch.cuda if builds and self.torch else None

    def edits_of(self, extension: str) -> tuple[PatchRow, ...]:
        """Edits of an extension's source; "": of the workload's own."""
        return tuple(row for row in self.patches if row.of == extension)


def make_spec(recipe: Recipe, catalog: Catalog, wishes: ImageWishes) -> ImageSpec:
    """Choose what goes into the image.

    Raises:
        BringupError: `unknown-profile`, `gpu-required`, `chip-blocks`, `driver-blocks`, `no-torch`,
            `image-base-python`, `image-needs-toolkit`, `no-source`, `image-without-source`.
    """
    _check_source(recipe, wishes.source)
    profile = wishes.profile or recipe.default_profile
    if profile != recipe.default_profile and profile not in recipe.profiles:
        known = ", ".join([recipe.default_profile, *recipe.profiles])
        raise BringupError("unknown-profile", exit_code=2, given=profile, known=known)
    if recipe.needs.gpu == "required" and not wishes.gpus:
        raise BringupError("image-gpu-required", exit_code=2, recipe=recipe.name)
    recipe = recipe.with_layouts_of(profile)
    torch = None if wishes.keep_torch else _choose_torch(recipe, profile, catalog, wishes)
    base, python, version = _base(recipe, torch, wishes)
    extensions = _extensions(recipe, profile, catalog, torch, wishes.gpus)
    needs = recipe.torch.profiles.get(profile, recipe.torch)
    texts, own = _requirements(recipe, profile, torch, needs)
    spec_texts, index = _torch_requirements(needs, torch)
    if any("portable" in choice.ways for choice in extensions):
        own = (*own, find_own_package(PORTABLE))
    probes = [row for row in recipe.probes if not row.profiles or profile in row.profiles]
    names = [name for row in probes if wishes.gpus or not row.needs_gpu for name in row.imports]
    folders = recipe.image.folders if recipe.image and not wishes.base else {}
    fetched = recipe.source is not None and ("code" not in folders or wishes.source is not None)
    return ImageSpec(
        recipe=recipe,
        profile=profile,
        gpus=tuple(sorted(set(wishes.gpus))),
        base=base,
        python=python,
        python_version=version,
        torch=torch,
        requirements=(*spec_texts, *texts),
        index=index,
        own=tuple(own),
        extensions=extensions,
        drop=_dropped(recipe, profile, extensions, needs.companions if torch else None),
        patches=_patches(recipe, profile, extensions),
        checkpoints=recipe.checkpoints if "models" in folders else (),
        imports=tuple(dict.fromkeys(names)),
        source=folders.get("code", f"/opt/{recipe.name}"),
        fetched=fetched,
        find_links=wishes.find_links,
        offline=wishes.offline,
        local=wishes.source,
    )


def _check_source(recipe: Recipe, given: Path | None) -> None:
    if given is not None and recipe.source is None:
        raise BringupError("image-without-source", exit_code=2, recipe=recipe.name)
    if given is not None and not given.is_dir():
        raise BringupError("no-source", exit_code=2, path=given)


def _python_range(recipe: Recipe, wishes: ImageWishes) -> str | None:
    """Version of the base's Python, where it is known beforehand."""
    if wishes.python_version:
        return wishes.python_version
    return recipe.image.python_version if recipe.image and not wishes.base else None


def _choose_torch(recipe: Recipe, profile: str, catalog: Catalog, wishes: ImageWishes) -> TorchBuild:
    """The newest build in the profile's range that serves all chips with the base's Python."""
    needs = recipe.torch.profiles.get(profile, recipe.torch)
    allowed, python = SpecifierSet(needs.range), _python_range(recipe, wishes)
    platform = f"linux-{wishes.architecture}"
    fitting = [
        build
        for build in catalog.torch_builds
        if (build.cuda is not None) == bool(wishes.gpus)
        and allowed.contains(build.version)
        and platform in build.platforms
        and (not wishes.gpus or not needs.cuda or build.cuda in needs.cuda)
        and (python is None or SpecifierSet(build.python).contains(python))
    ]
    serving = [b for b in fitting if all(catalog.torch_runs_on(b, gpu, platform) for gpu in wishes.gpus)]
    driven = [build for build in serving if _driver_runs(build, catalog, wishes)]
    if driven:
        return max(driven, key=lambda b: (Version(b.version), b.index is None, Version(b.cuda or "0")))
    chips = ", ".join(gpu.sm for gpu in wishes.gpus) or "CPU"
    if serving and wishes.driver:
        easiest = min(serving, key=lambda build: Version(build.cuda or "0"))
        needed = catalog.minimum_driver(easiest.cuda or "", wishes.on_windows)
        raise BringupError(
            "driver-blocks", gpus=chips, cuda=easiest.cuda, needed=needed, driver=wishes.driver.version
        )
    if fitting:
        raise BringupError("chip-blocks", gpus=chips, range=needs.range)
    raise BringupError("no-torch", range=needs.range, python=python or recipe.python)


def _driver_runs(build: TorchBuild, catalog: Catalog, wishes: ImageWishes) -> bool:
    if wishes.driver is None or build.cuda is None:
        return True
    needed = catalog.minimum_driver(build.cuda, wishes.on_windows)
    return needed is None or Version(wishes.driver.version) >= Version(needed)


def _base(recipe: Recipe, torch: TorchBuild | None, wishes: ImageWishes) -> tuple[str, str, str]:
    """(reference, interpreter, its version) of the base image."""
    if wishes.base:
        return wishes.base, wishes.python or "python3", wishes.python_version or ""
    if recipe.image:
        return recipe.image.reference, wishes.python or recipe.image.python, recipe.image.python_version
    allowed = SpecifierSet(recipe.python)
    served = SpecifierSet(torch.python) if torch else SpecifierSet()
    minors = (Version(f"3.{minor}") for minor in range(9, _NEWEST_SLIM.minor + 1))
    fitting = [minor for minor in minors if allowed.contains(minor) and served.contains(minor)]
    if not fitting:
        python = torch.python if torch else ""
        raise BringupError("image-base-python", exit_code=2, range=recipe.python, torch=python)
    version = str(max(fitting))
    return _SLIM.format(version=version), _SLIM_PYTHON, version


def _extensions(
    recipe: Recipe,
    profile: str,
    catalog: Catalog,
    torch: TorchBuild | None,
    gpus: Sequence[ComputeCapability],
) -> tuple[ExtensionChoice, ...]:
    """Ways that can serve here, in the recipe's order, up to the first that always serves."""
    choices = []
    for row in recipe.extensions:
        if row.profiles and profile not in row.profiles:
            continue
        ways: list[str] = []
        for way in row.ways:
            if way == "wheel" and torch and torch.cuda and not _wheel_page(row, catalog) and not row.pin:
                continue
            if way == "build" and torch is not None and torch.cuda is None:
                continue
            if way == "portable" and any(gpu < _OLDEST_PORTABLE for gpu in gpus):
                continue
            ways.append(way)
            if way in ("portable", "drop", "build"):
                break
        if not ways:
            raise BringupError("image-needs-toolkit", exit_code=2, extension=row.distribution)
        choices.append(ExtensionChoice(row, tuple(ways)))
    return tuple(choices)


def _wheel_page(row: ExtensionRow, catalog: Catalog) -> str | None:
    known = catalog.extension(row.distribution)
    return known.wheels if known else None


def wheel_page(row: ExtensionRow, catalog: Catalog, torch: TorchBuild | None) -> str | None:
    """The find-links page with wheels of this extension for this torch; None where there is none."""
    page = _wheel_page(row, catalog)
    if page is None or torch is None:
        return None
    release = Version(torch.version)
    return page.format(torch=f"{release.major}.{release.minor}.0", cuda=torch.local)


def _patches(recipe: Recipe, profile: str, extensions: Sequence[ExtensionChoice]) -> tuple[PatchRow, ...]:
    """Edits of the workload's own source, and of the extensions that may be compiled."""
    built = {"", *(choice.row.distribution for choice in extensions if "build" in choice.ways)}
    return tuple(
        row for row in recipe.patches if row.of in built and (not row.profiles or profile in row.profiles)
    )


def _requirements(
    recipe: Recipe, profile: str, torch: TorchBuild | None, needs: TorchRange
) -> tuple[list[str], tuple[OwnPackage, ...]]:
    texts: list[str] = []
    own: list[OwnPackage] = []
    ours = {"torch", *needs.companions}
    for row in recipe.requirements:
        if row.drop or (row.profiles and profile not in row.profiles):
            continue
        name = canonicalize_name(Requirement(row.spec).name)
        if row.own:
            own.append(find_own_package(name))
        elif torch is None or name not in ours:
            texts.append(row.loosened or row.spec)
    return texts, tuple(own)


def _torch_requirements(needs: TorchRange, torch: TorchBuild | None) -> tuple[list[str], str | None]:
    """torch and its companions of the same release and label, and the index that carries them."""
    if torch is None:
        return [], None
    label = f"+{torch.local}" if torch.index else ""
    texts = [f"torch==={torch.version}{label}"]
    for name in needs.companions:
        version = getattr(torch, name)
        texts.append(f"{name}==={version}{label}" if version else name)
    return texts, torch.index


def _dropped(
    recipe: Recipe,
    profile: str,
    extensions: Sequence[ExtensionChoice],
    companions: Sequence[str] | None,
) -> tuple[str, ...]:
    """What the base has and the workload does not import: listed so, or compiled against the old torch."""
    names: list[str] = [
        canonicalize_name(Requirement(row.spec).name)
        for row in recipe.requirements
        if row.drop and (not row.profiles or profile in row.profiles)
    ]
    names += [canonicalize_name(choice.row.distribution) for choice in extensions if "drop" in choice.ways]
    if companions is not None:
        names += [name for name in ("torchvision", "torchaudio") if name not in companions]
    return tuple(dict.fromkeys(names))
