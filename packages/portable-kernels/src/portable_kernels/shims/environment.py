"""An environment seen through its interpreter: what is installed there, and its installer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portable_kernels.errors import ShimError

# Runs in the environment: standard library only. Metadata is read, nothing is imported.
_LOOK = """
import glob, importlib.metadata, importlib.util, json, os, sys
def located(path):  # as pip does: a file that is a link is the link, wherever its folder's own path leads
    folder, name = os.path.split(os.path.normpath(str(path)))
    return os.path.join(os.path.realpath(folder), name)
def on_path(pattern):
    folders = [folder for folder in sys.path if folder]
    return [file for folder in folders for file in sorted(glob.glob(os.path.join(folder, pattern)))]
def lines_for(place, pattern):  # of files that name folders: [file, line]
    found = []
    for file in on_path(pattern):
        with open(file, encoding="utf-8", errors="surrogateescape") as text:
            for line in text.read().splitlines():
                named = os.path.join(os.path.dirname(file), line.strip())
                if line.strip() and os.path.realpath(named) == place:
                    found.append([located(file), line])
    return found
def files_and_lines(found, place):  # what an installer removes: files, and lines of .pth files
    if found.read_text("RECORD"):
        return [located(found.locate_file(file)) for file in found.files or []], []
    listed = found.read_text("installed-files.txt")
    if listed:
        return [located(os.path.join(str(found._path), file)) for file in listed.splitlines()], []
    links = [file for file, _ in lines_for(place, "*.egg-link")]
    if links:  # setup.py develop
        return links[:1], lines_for(place, "*.pth")
    if place.endswith(".egg"):  # setup.py install
        inside = [os.path.join(top, name) for top, _, names in os.walk(place) for name in names]
        return inside or [place], lines_for(place, "*.pth")
    return [], []
def installed(name):
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    if not (found.read_text("METADATA") or found.read_text("PKG-INFO") or found.read_text("")):
        return None  # a folder that an uninstallation has left
    place = os.path.realpath(str(found.locate_file("")))
    files, lines = files_and_lines(found, place)
    return {"version": found.version, "place": place, "files": files, "lines": lines}
def origin(name):
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    return spec.origin or next(iter(spec.submodule_search_locations or []), None)
asked = json.loads(sys.argv[1])
print(json.dumps({
    "prefix": sys.prefix,
    "virtual": sys.prefix != sys.base_prefix,
    "version": list(sys.version_info[:2]),
    "distributions": {name: installed(name) for name in asked["distributions"]},
    "origins": {name: origin(name) for name in asked["imports"]},
}))
"""


@dataclass(frozen=True)
class Installed:
    """A distribution that an environment holds, and what an installer would remove of it.

    `place`: the folder of its metadata. `files`: absolute; a link stands for itself. Of an egg all files, of
    a development install (`setup.py develop`) the `.egg-link` alone; empty where nothing lists them. `lines`:
    those that it has in `.pth` files.
    """

    version: str
    place: Path
    files: tuple[Path, ...]
    lines: tuple[tuple[Path, str], ...]


@dataclass(frozen=True)
class Look:
    """What an environment said about the names it was asked for; None where it has none."""

    prefix: Path
    virtual: bool
    distributions: Mapping[str, Installed | None]
    origins: Mapping[str, str | None]

    def owns(self, installed: Installed) -> bool:
        """Whether installing another version removes this one.

        A virtual environment only covers what lies in the environment below it.
        """
        first = installed.files[0].parent if installed.files else installed.place
        return not self.virtual or first.is_relative_to(self.prefix.resolve())


class Environment:
    """A Python environment, by its interpreter or its folder."""

    def __init__(self, where: str | Path | None = None) -> None:
        """`where`: an interpreter or an environment's folder; this one if None.

        ShimError when it is neither.
        """
        self.python = self._interpreter(Path(sys.executable if where is None else where))

    @staticmethod
    def _interpreter(path: Path) -> Path:
        candidates = [path]
        if path.is_dir():
            candidates = [
                path / "bin" / "python",
                path / "bin" / "python3",
                path / "Scripts" / "python.exe",
                path / "python.exe",
            ]
        for candidate in candidates:
            found = candidate if candidate.is_file() else shutil.which(str(candidate))
            if found:
                return Path(found).absolute()
        raise ShimError(f"'{path}' is neither a Python interpreter nor an environment's folder.")

    def run(self, arguments: Sequence[str], timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run the interpreter in an empty folder, so that nothing lying around is imported.

        ShimError when it cannot be started.
        """
        try:
            with tempfile.TemporaryDirectory() as empty:
                return subprocess.run(
                    [str(self.python), *arguments],
                    cwd=empty,
                    capture_output=True,
                    text=True,
                    timeout=timeout,
                    check=False,
                )
        except OSError as error:
            raise ShimError(f"'{self.python}' could not be started: {error}.") from error

    def look(self, distributions: Sequence[str], imports: Sequence[str]) -> Look:
        """Return what is installed under these names. ShimError when the interpreter does not answer."""
        asked = json.dumps({"distributions": list(distributions), "imports": list(imports)})
        outcome = self.run(["-c", _LOOK, asked])
        if outcome.returncode:
            raise ShimError(f"'{self.python}' does not run: {_last_lines(outcome.stderr)}")
        said: dict[str, Any] = json.loads(outcome.stdout)
        if said["version"] < [3, 10]:
            version = ".".join(map(str, said["version"]))
            raise ShimError(f"portable-kernels needs Python 3.10 or newer; '{self.python}' is {version}.")
        found = {
            name: None if row is None else _installed(row) for name, row in said["distributions"].items()
        }
        return Look(Path(said["prefix"]), said["virtual"], found, said["origins"])

    def works(self, code: str) -> str | None:
        """Run a probe. None when it succeeds, otherwise its last words.

        A crash is an answer, not an accident.
        """
        try:
            outcome = self.run(["-c", code], timeout=300)
        except subprocess.TimeoutExpired:
            return "no answer within 300 s"
        if outcome.returncode == 0:
            return None
        return _last_lines(outcome.stderr, 1) or f"exit {outcome.returncode}"

    def _installer(self) -> list[str]:
        """Return the command to which `install` or `uninstall` is added: the environment's pip, else uv."""
        if self.run(["-m", "pip", "--version"]).returncode == 0:
            return [str(self.python), "-m", "pip", "--disable-pip-version-check"]
        uv = shutil.which("uv")
        if uv:
            return [uv, "pip"]
        raise ShimError(
            f"'{self.python}' has no pip, and there is no uv on PATH. Put pip there: "
            f"{self.python} -m ensurepip (or your distribution's python3-pip)."
        )

    def _call(self, arguments: Sequence[str]) -> None:
        installer = self._installer()
        verb, *rest = arguments
        if installer[-1] == "pip":
            rest = ["--python", str(self.python), *(word for word in rest if word != "--yes")]
        outcome = subprocess.run([*installer, verb, *rest], capture_output=True, text=True, check=False)
        if outcome.returncode:
            raise ShimError(f"The installer refused: {_last_lines(outcome.stderr or outcome.stdout)}")

    def install_wheels(self, wheels: Sequence[Path]) -> None:
        """Install these wheels and nothing else; what they replace goes.

        ShimError in the installer's words.
        """
        self._call(["install", "--no-deps", "--no-index", "--force-reinstall", *map(str, wheels)])

    def remove(self, distributions: Sequence[str]) -> None:
        """Uninstall distributions. ShimError in the installer's words."""
        self._call(["uninstall", "--yes", *distributions])


def _installed(row: dict[str, Any]) -> Installed:
    lines = tuple((Path(file), line) for file, line in row["lines"])
    return Installed(row["version"], Path(row["place"]), tuple(map(Path, row["files"])), lines)


def _last_lines(text: str, count: int = 4) -> str:
    return " ".join(line.strip() for line in text.strip().splitlines()[-count:])


@contextmanager
def wheel_folder() -> Iterator[Path]:
    """A folder for wheels that are installed at once."""
    with tempfile.TemporaryDirectory(prefix="portable-kernels-") as folder:
        yield Path(folder)
