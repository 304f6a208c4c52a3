"""Taking toolkits away again: every package and folder is named before one is touched, and only what bringup
put there is touched. What the system has is listed with the commands that would remove it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from bringup import state
from bringup.errors import BringupError
from bringup.facts.environment import EnvironmentFacts, read_environment
from bringup.plan.resolve import explain_installer_failure
from bringup.steps.processes import run_logged
from bringup.steps.toolkit.pip import pip_environment, pip_for
from bringup.steps.toolkit.wheels import MANIFEST, Installed, folder_size, read_manifest

# As NVIDIA's repositories and Debian name what belongs to a toolkit. `cuda-compat` is part of a driver.
_SYSTEM_PACKAGE = re.compile(
    r"cuda-(?!drivers|keyring|compat)[\w-]*\d+-\d+|cuda-toolkit-[\w-]*|nvidia-cuda-(?:toolkit|dev)[\w-]*"
    r"|lib(?:cublas|cusparse|cusolver|curand|cufft|cufile|npp|nvjpeg|nvjitlink|nvfatbin|nvvm|nvptxcompiler)"
    r"[\w-]*\d+-\d+|gds-tools-\d+-\d+|nsight-(?:compute|systems)-[\d.]+"
)


@dataclass(frozen=True)
class PackageRemoval:
    """A distribution that bringup added to an environment. `kept`: why it stays after all, else None:
    "gone", "changed" (another version is there now), or the name of what needs it."""

    environment: str
    name: str
    version: str
    kept: str | None


@dataclass(frozen=True)
class Removal:
    """What would be removed.

    Attributes:
        folders: (folder, bytes) of bringup's own store.
        packages: of environments. files: links and manifests in environments.
        system_packages: (name, version) of the system's package manager; system_folders: (folder, bytes).
        commands: for the system's own, to be run by a person; never run here.
    """

    folders: tuple[tuple[Path, int], ...]
    packages: tuple[PackageRemoval, ...]
    files: tuple[Path, ...]
    system_packages: tuple[tuple[str, str], ...]
    system_folders: tuple[tuple[Path, int], ...]
    commands: tuple[str, ...]

    @property
    def empty(self) -> bool:
        """Nothing of bringup's own to remove."""
        return not self.folders and not self.packages and not self.files


def plan_removal(version: str | None, environment: Path | None, system: bool) -> Removal:
    """Name everything; touch nothing.

    Args:
        version: only this release of bringup's own store; None: all of them.
        environment: instead of the store, what bringup added to this environment.
        system: also list the system's own toolkits and the commands that remove them.

    Raises:
        BringupError: `toolkit-not-ours`: bringup added nothing to that environment; `toolkit-version`.
    """
    if version is not None and not re.fullmatch(r"\d+\.\d+", version):
        raise BringupError("toolkit-version", exit_code=2, given=version)
    folders: list[tuple[Path, int]] = []
    packages: tuple[PackageRemoval, ...] = ()
    files: tuple[Path, ...] = ()
    if environment is not None:
        packages, files = _of_environment(read_environment(environment, scan=False))
    else:
        folders = [(folder, folder_size(folder)) for folder in _own_folders(version)]
    listed = tuple(_system_packages(version)) if system else ()
    trees = tuple(_system_folders(version)) if system else ()
    commands = _system_commands([name for name, _ in listed], [folder for folder, _ in trees])
    return Removal(tuple(folders), packages, files, listed, trees, commands)


def _own_folders(version: str | None) -> Iterator[Path]:
    for folder in sorted((state.home() / "toolkits").glob("*")):
        release = folder.name.removesuffix("-libraries").removeprefix("cuda-").removeprefix("conda-")
        if re.fullmatch(r"\d+\.\d+", release) and version in (None, release) and folder.is_dir():
            yield folder


def _of_environment(facts: EnvironmentFacts) -> tuple[tuple[PackageRemoval, ...], tuple[Path, ...]]:
    for site in facts.site_packages:
        for root in sorted(Path(site).glob("nvidia/cu*")):
            manifest = read_manifest(root)
            if manifest and manifest.environment:
                return tuple(_packages(manifest, facts)), tuple(_files(root, manifest))
    raise BringupError("toolkit-not-ours", path=facts.root)


def _packages(manifest: Installed, facts: EnvironmentFacts) -> Iterator[PackageRemoval]:
    ours = {name for name, _ in manifest.packages}
    for name, version in manifest.packages:
        found = facts.distribution(name)
        kept = None
        if found is None:
            kept = "gone"
        elif found.version != version:
            kept = "changed"
        else:
            kept = next(_needing(name, ours, facts), None)
        yield PackageRemoval(facts.root, name, version, kept)


def _needing(name: str, ours: set[str], facts: EnvironmentFacts) -> Iterator[str]:
    """Distributions of the user's that ask for this one: torch for nvidia-cuda-runtime."""
    for row in facts.distributions:
        for line in row.requires if row.key not in ours else ():
            try:
                asked = canonicalize_name(Requirement(line).name)
            except InvalidRequirement:
                continue
            if asked == name:
                yield row.name


def _files(root: Path, manifest: Installed) -> Iterator[Path]:
    for link in manifest.links:
        if (root / link).is_symlink():
            yield root / link
    yield root / MANIFEST


def _system_packages(version: str | None) -> Iterator[tuple[str, str]]:
    if shutil.which("dpkg-query") is None:
        return
    command = ["dpkg-query", "-W", "-f", "${db:Status-Abbrev}\t${Package}\t${Version}\t${Depends}\n"]
    listed = subprocess.run(command, capture_output=True, text=True, errors="replace").stdout
    rows = [line.split("\t") for line in listed.splitlines() if line.count("\t") == 3]
    toolkit = [row for row in rows if row[0].strip() == "ii" and _SYSTEM_PACKAGE.fullmatch(row[1])]
    chosen = [row for row in toolkit if version is None or _is_of(version, row[1], row[2])]
    # Nsight's packages have versions of their own: a toolkit's package asks for them.
    asked = {re.split(r"[ (:]", part.strip())[0] for row in chosen for part in re.split(r"[,|]", row[3])}
    others = {row[1] for row in toolkit if row not in chosen and row[1].startswith("nsight-")}
    chosen += [row for row in toolkit if row[1] in asked & others]
    yield from sorted((row[1], row[2]) for row in chosen)


def _is_of(version: str, package: str, number: str) -> bool:
    """Whether a package is of a CUDA release: by its name, or by its number (Debian's own)."""
    if package.startswith("nvidia-cuda-"):
        return number.startswith(f"{version}.")
    return re.search(rf"(?<!\d){version.replace('.', '-')}(?!\d)", package) is not None


def _system_folders(version: str | None) -> Iterator[tuple[Path, int]]:
    for folder in sorted(Path("/usr/local").glob(f"cuda-{version or '*'}")):
        if folder.is_dir() and not folder.is_symlink():
            yield folder, folder_size(folder)


def _system_commands(packages: list[str], folders: list[Path]) -> tuple[str, ...]:
    """For a person with root. The runfile brings its own uninstaller; a driver is never named."""
    commands = [f"sudo apt-get purge {' '.join(packages)}"] if packages else []
    for folder in folders:
        uninstaller = folder / "bin" / "cuda-uninstaller"
        commands.append(f"sudo {uninstaller}" if uninstaller.exists() else f"sudo rm -r {folder}")
        link = Path("/usr/local/cuda")
        if link.is_symlink() and link.resolve() == folder.resolve():
            commands.append(f"sudo rm {link}")
    return tuple(commands)


def carry_out(removal: Removal) -> None:
    """Remove what is bringup's own of a plan; what is kept stays, and so does the system's.

    Raises:
        BringupError: the environment has no pip that works, or pip fails.
    """
    going = [row for row in removal.packages if row.kept is None]
    # Links first: pip removes only the folders that it leaves empty.
    for file in removal.files:
        file.unlink(missing_ok=True)
    if going:
        python = read_environment(Path(going[0].environment), scan=False).python.executable
        pip = pip_for(Path(python)) if python else None
        if pip is None:
            raise BringupError("no-pip", path=going[0].environment)
        log = state.home() / "toolkits" / "logs" / "remove.log"
        command = [*pip, "uninstall", "--yes", *(row.name for row in going)]
        outcome = run_logged(command, log, environment=pip_environment())
        if outcome.code:
            raise explain_installer_failure(outcome.tail, "pip uninstall")
    for file in removal.files[-1:]:
        _prune(file.parent.parent)
    for folder, _ in removal.folders:
        shutil.rmtree(folder)


def _prune(folder: Path) -> None:
    """Remove folders that are empty now, deepest first."""
    for inner in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(inner.iterdir()):
            inner.rmdir()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
