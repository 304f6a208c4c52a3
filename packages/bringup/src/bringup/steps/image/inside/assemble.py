"""In the builder stage: the environment over the base's own (`create`), and the tree of changes (`collect`).

`/changes` mirrors `/`: what lies in it is laid over the base by the final stage's one COPY.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import site
import subprocess
import sys
import tempfile
import venv
from importlib import metadata
from pathlib import Path

POINTER = "_bringup_site.pth"
# Before the base's own packages, after the standard library; for this interpreter alone.
INSERT = (
    "import sys; p = {path!r}; p in sys.path or sys.path.insert(next((i for i, d in enumerate(sys.path) "
    "if d.endswith(('site-packages', 'dist-packages'))), len(sys.path)), p)"
)
COPIED = ("image.json", "finish.py")


def canonical(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def base_folders() -> list[Path]:
    """Folders of packages that this interpreter looks into; the first takes the pointer."""
    own = [*site.getsitepackages(), *sys.path]
    named = [entry for entry in own if entry.endswith(("site-packages", "dist-packages"))]
    return [Path(entry).resolve() for entry in dict.fromkeys(named) if Path(entry).is_dir()]


def create(environment: Path, changes: Path) -> None:
    """An empty environment in which the base's packages show through.

    It lies below `changes` from the start, and is reached by a link at its final place: scripts hold that
    path, and nothing is moved between layers.
    """
    real = changes / str(environment.parent).lstrip("/")
    real.mkdir(parents=True, exist_ok=True)
    environment.parent.parent.mkdir(parents=True, exist_ok=True)
    environment.parent.symlink_to(real)
    venv.EnvBuilder(symlinks=True, with_pip=False, clear=True).create(str(environment))
    lines = [f"import site; site.addsitedir({str(folder)!r})" for folder in base_folders()]
    packages(environment).joinpath("_bringup_base.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")


def bring_pip(folder: Path) -> None:
    """A pip in a folder of its own (PYTHONPATH): newer than the base's, and no trace of it in the base.

    Raises:
        SystemExit: the base's Python has neither pip nor ensurepip.
    """
    runner = sys.executable
    if subprocess.run(
        [runner, "-m", "pip", "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ).returncode:
        own = Path(tempfile.mkdtemp(prefix="bringup-pip-"))
        try:
            venv.EnvBuilder(with_pip=True).create(str(own))
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"bringup: {runner} has neither pip nor ensurepip: {error}") from error
        runner = str(own / "bin" / "python")
    command = [runner, "-m", "pip", "install", "--quiet", "--target", str(folder), "pip>=24"]
    newer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if newer.returncode:
        # Without a network, what the base (or its ensurepip) brings must do.
        question = "import os, pip; print(os.path.dirname(pip.__file__))"
        place = subprocess.check_output([runner, "-c", question], text=True).strip()
        shutil.copytree(place, str(folder / "pip"), dirs_exist_ok=True)


def packages(environment: Path) -> Path:
    """The environment's own folder of packages."""
    return next(iter(environment.glob("lib/python3*/site-packages")))


def distributions(folder: Path) -> dict[str, list[metadata.PathDistribution]]:
    """Distributions in one folder by canonical name; broken metadata are passed over."""
    found: dict[str, list[metadata.PathDistribution]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.endswith((".dist-info", ".egg-info")):
            distribution = metadata.PathDistribution(entry)
            # A file's name says it too, and cannot be missing.
            name = re.split(r"-\d", entry.name.rsplit(".", 1)[0])[0]
            found.setdefault(canonical(distribution.metadata["Name"] or name), []).append(distribution)
    return found


def metadata_path(distribution: metadata.PathDistribution) -> Path:
    """The folder (or file) of a distribution's metadata."""
    return Path(str(distribution._path))


def tops(distribution: metadata.PathDistribution) -> set[str]:
    """First components of the files that a distribution recorded, its own metadata among them."""
    names = {file.parts[0] for file in distribution.files or () if file.parts and file.parts[0] != ".."}
    return names | {metadata_path(distribution).name}


def to_remove(folders: list[Path], replaced: set[str], dropped: set[str]) -> list[Path]:
    """What goes from the base: metadata of what is replaced, all files of what is dropped.

    A top-level folder that another distribution shares (a namespace) stays.
    """
    paths: list[Path] = []
    for folder in folders:
        known = distributions(folder)
        gone = {name for name in known if name in dropped}
        kept: set[str] = set()
        for name, rows in known.items():
            if name not in gone:
                kept.update(top for row in rows for top in tops(row))
        for name in sorted(gone):
            mine = {top for row in known[name] for top in tops(row)}
            paths += [folder / top for top in sorted(mine - kept) if top != "__pycache__"]
        for name in sorted(replaced - dropped):
            paths += [metadata_path(row) for row in known.get(name, ())]
    return paths


def link_commands(environment: Path, folder: Path) -> None:
    """Links to the console commands, without the environment's Python: it must not become `python`."""
    folder.mkdir(parents=True, exist_ok=True)
    for program in sorted((environment / "bin").iterdir()):
        if not re.match(r"(python|pip|[Aa]ctivate)", program.name):
            folder.joinpath(program.name).symlink_to(Path("..") / environment.name / "bin" / program.name)


def lock(report: Path) -> str:
    """What pip installed, as a requirements file with hashes; without addresses: an index may be private."""
    if not report.is_file():
        return ""
    lines = []
    for row in json.loads(report.read_text(encoding="utf-8"))["install"]:
        hashes = row["download_info"].get("archive_info", {}).get("hashes", {})
        pinned = "{name}=={version}".format(**row["metadata"])
        lines.append(pinned + (f" --hash=sha256:{hashes['sha256']}" if "sha256" in hashes else ""))
    return "".join(f"{line}\n" for line in sorted(lines))


def collect(environment: Path, context: Path, changes: Path, report: Path) -> None:
    """Point the base's Python to the environment, and write down what is to go from the base."""
    folders = base_folders()
    own = packages(environment)
    described = json.loads((context / "image.json").read_text(encoding="utf-8"))
    replaced = set(distributions(own)) - {"pip"}
    removed = to_remove(folders, replaced, {canonical(name) for name in described["drop"]})
    target = changes / str(environment.parent).lstrip("/")
    link_commands(environment, target / "bin")
    pointer = changes / str(folders[0]).lstrip("/") / POINTER
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.write_text(INSERT.format(path=str(own)) + "\n", encoding="utf-8")
    for name in COPIED:
        if (context / name).is_file():
            shutil.copyfile(str(context / name), str(target / name))
    target.joinpath("lock.txt").write_text(lock(report), encoding="utf-8")
    lines = "".join(f"{path}\n" for path in removed)
    target.joinpath("removed.txt").write_text(lines, encoding="utf-8")


def main() -> None:
    """`assemble.py create` or `assemble.py collect`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=("create", "collect"))
    parser.add_argument("--environment", type=Path, default=Path("/opt/bringup/site"))
    parser.add_argument("--context", type=Path, default=Path("/bringup"))
    parser.add_argument("--changes", type=Path, default=Path("/changes"))
    parser.add_argument("--report", type=Path, default=Path("/tmp/installed.json"))
    parser.add_argument("--pip", type=Path, default=Path("/tmp/pip"))
    arguments = parser.parse_args()
    if arguments.verb == "create":
        create(arguments.environment.absolute(), arguments.changes)
        bring_pip(arguments.pip)
    else:
        collect(arguments.environment.absolute(), arguments.context, arguments.changes, arguments.report)


if __name__ == "__main__":
    main()
