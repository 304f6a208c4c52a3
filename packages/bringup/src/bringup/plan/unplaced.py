"""Modules that a project imports and nothing in its plan is known to bring: named, never guessed at."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from packaging.utils import canonicalize_name

from bringup.facts.project import ProjectFacts
from bringup.plan.undeclared import DISTRIBUTIONS

# Modules of distributions whose names say nothing of them; those of `undeclared` come on top.
_KNOWN = {
    "Crypto": "pycryptodome",
    "bs4": "beautifulsoup4",
    "community": "python-louvain",
    "fitz": "pymupdf",
    "grpc": "grpcio",
    "mmseg": "mmsegmentation",
    "mpl_toolkits": "matplotlib",
    "osgeo": "gdal",
    "ot": "pot",
    "pl_bolts": "lightning-bolts",
    "pylab": "matplotlib",
    "pynvml": "nvidia-ml-py",
    "pywt": "pywavelets",
    "skopt": "scikit-optimize",
    "skvideo": "scikit-video",
    "vtkmodules": "vtk",
}
# Of builds and tests; of hosts that bring them (Blender, Colab); of many distributions; of older Pythons.
_NOBODYS = {
    "Cython", "pip", "pkg_resources", "setuptools", "wheel", "hypothesis", "nose", "pytest",
    "bmesh", "bpy", "bpy_extras", "mathutils", "google", "triton",
    "asynchat", "asyncore", "distutils", "imp",
    "ConfigParser", "Queue", "StringIO", "Tkinter", "cPickle", "cStringIO", "httplib", "urllib2", "urlparse",
}  # fmt: skip


def imports_from_elsewhere(project: ProjectFacts) -> Iterator[tuple[str, str]]:
    """(module, first place) of what a run imports, and neither Python nor the project itself has."""
    root = Path(project.root)
    own = project.own_modules | project.built_modules | _NOBODYS | sys.stdlib_module_names | {root.name}
    for module, place in sorted(project.needed_imports.items()):
        generated = module.startswith("_") or module.endswith(("_pb2", "_pb2_grpc"))
        if module not in own and not generated and not _lies_beside(module, place, root):
            yield module, place


def _lies_beside(module: str, place: str, root: Path) -> bool:
    """Whether a folder or file of that name lies beside the file that imports it, or above it."""
    folders = (root / folder for folder in PurePosixPath(place.rpartition(":")[0]).parents)
    return any((folder / name).exists() for folder in folders for name in (module, f"{module}.py"))


def is_brought(module: str, distributions: Iterable[str]) -> bool:
    """Whether one of the distributions (canonical names) may hold this module, by what they are called.

    In doubt it is: `dateutil` of python-dateutil, `yaml` of PyYAML, `faiss` of faiss-gpu.
    """
    known = canonicalize_name(DISTRIBUTIONS.get(module, _KNOWN.get(module, module)))
    looked_for = {_joined(module), _joined(known)}
    return any(
        known == name or (module == "cv2" and name.startswith("opencv")) or looked_for & _modules_of(name)
        for name in distributions
    )


def _joined(name: str) -> str:
    return re.sub(r"[-_.]", "", name.lower())


def _modules_of(distribution: str) -> set[str]:
    """What its modules may be called: words of its name in a row, without «py», «python», «s», a number."""
    words = distribution.split("-")
    places = range(len(words))
    runs = {"".join(words[first : last + 1]) for first in places for last in places[first:]}
    plain = {re.sub(r"^(?:python|py)|(?:python|py)$", "", run) for run in runs}
    return runs | plain | {re.sub(r"(?:s|\d+)$", "", run) for run in runs}
