"""The package itself, outside of an installation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import prostate_ssl


def test_a_source_tree_without_installation_has_a_version_too():
    sources = Path(prostate_ssl.__file__).parents[1]
    # -S: no site-packages, so no installed metadata of any package can be found.
    code = f"import sys; sys.path.insert(0, {str(sources)!r}); import prostate_ssl; print(prostate_ssl.__version__)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "0+uninstalled"
    assert prostate_ssl.__version__[0].isdigit()
