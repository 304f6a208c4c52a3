"""Where a source lies: a folder as it is, an archive unpacked for as long as it is needed."""

from __future__ import annotations

import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bringup.catalog import load
from bringup.errors import BringupError


@contextmanager
def opened_source(path: Path) -> Iterator[Path]:
    """A source folder; an archive (.tar.gz, .tgz, .tar.bz2, .tar.xz, .zip) is unpacked for as long as needed.

    Raises:
        BringupError: `build-no-source`, `source-archive`.
    """
    if path.is_dir():
        yield path
        return
    if not path.exists():
        known = load().extension(path.name)
        where = known.repository if known else "REPOSITORY"
        raise BringupError("build-no-source", exit_code=2, path=path, repository=where)
    with tempfile.TemporaryDirectory(prefix="bringup-") as folder:
        try:
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    archive.extractall(folder)
            else:
                with tarfile.open(path) as archive:
                    archive.extractall(folder, filter="data")
        except (OSError, tarfile.TarError, zipfile.BadZipFile, ValueError) as error:
            raise BringupError("source-archive", exit_code=2, path=path, text=error) from error
        entries = list(Path(folder).iterdir())
        yield entries[0] if len(entries) == 1 and entries[0].is_dir() else Path(folder)
