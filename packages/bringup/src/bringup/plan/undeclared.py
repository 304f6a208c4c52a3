"""Well-known modules that a project imports and nowhere asks for: it runs on its author's machine alone."""

from __future__ import annotations

from collections.abc import Iterator, Set
from pathlib import Path, PurePosixPath

from packaging.utils import canonicalize_name

from bringup.facts.project import ProjectFacts

# Only names that are surely what is meant: a guessed name on an index may be anybody's.
DISTRIBUTIONS = {
    "PIL": "Pillow",
    "SimpleITK": "SimpleITK",
    "cv2": "opencv-python-headless",
    "einops": "einops",
    "h5py": "h5py",
    "imageio": "imageio",
    "matplotlib": "matplotlib",
    "nibabel": "nibabel",
    "numpy": "numpy",
    "omegaconf": "omegaconf",
    "pandas": "pandas",
    "plyfile": "plyfile",
    "pydicom": "pydicom",
    "requests": "requests",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "timm": "timm",
    "tqdm": "tqdm",
    "transformers": "transformers",
    "trimesh": "trimesh",
    "yaml": "PyYAML",
}
_ASIDE = ("test", "tests", "doc", "docs", "examples", "benchmark", "benchmarks", "notebooks")


def undeclared(project: ProjectFacts, declared: Set[str]) -> Iterator[tuple[str, str]]:
    """(distribution, first place that imports it) of what is imported and not declared.

    Args:
        declared: canonical names of what the project's files ask for.
    """
    root = Path(project.root)
    for module, place in sorted(project.imports.items()):
        name = DISTRIBUTIONS.get(module)
        if name is None or canonicalize_name(name) in declared:
            continue
        if module == "cv2" and any(key.startswith("opencv-") for key in declared):
            continue
        own = any((root / part / module).exists() for part in ("", "src")) or (root / f"{module}.py").exists()
        if not own and PurePosixPath(place).parts[0] not in _ASIDE:
            yield name, place
