"""Run PyTorch3D's own published tests of knn_points, knn_gather and ball_query against the shim.

    python published.py SOURCE [--device cpu|cuda]

SOURCE is a checkout of facebookresearch/pytorch3d or its git directory; nothing of it is kept. Left out: what needs
more of PyTorch3D than the shim holds (one test, which samples points from meshes), and on the CPU the tests that ask for
CUDA by name; the others that ask for a CUDA device get the one chosen here.
"""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
import tempfile
from pathlib import Path

DROPIN = Path(__file__).parents[2] / "src" / "portable_kernels" / "dropins" / "pytorch3d"
NEEDS_MORE = "test_ball_query_output_simple"
#: Imports that the tests kept here never use.
UNUSED = {"pytorch3d.utils", "PIL"}


def _read(source: Path, path: str) -> str:
    if (source / path).exists():
        return (source / path).read_text()
    command = ["git", "--git-dir", str(source), "show", f"HEAD:{path}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _without_unused_imports(text: str) -> str:
    tree = ast.parse(text)
    for node in list(tree.body):
        if isinstance(node, ast.ImportFrom) and node.module in UNUSED:
            tree.body.remove(node)
        elif isinstance(node, ast.ImportFrom) and node.module == "pytorch3d.ops":
            node.names = [name for name in node.names if name.name != "sample_points_from_meshes"]
            if not node.names:
                tree.body.remove(node)
    return ast.unparse(tree)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "published"
        package.mkdir()
        (package / "__init__.py").touch()
        for name in ("common_testing", "test_knn", "test_ball_query"):
            text = _without_unused_imports(_read(arguments.source, f"tests/{name}.py"))
            if name == "common_testing" and arguments.device == "cpu":
                text += "\n\ndef get_random_cuda_device():\n    return torch.device('cpu')\n"
            (package / f"{name}.py").write_text(text)
        left_out = NEEDS_MORE if arguments.device == "cuda" else f"{NEEDS_MORE} or _cuda"
        path = os.pathsep.join([str(DROPIN), folder, *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-k",
            f"not ({left_out})",
            str(package),
        ]
        return subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": path}).returncode


if __name__ == "__main__":
    sys.exit(main())
