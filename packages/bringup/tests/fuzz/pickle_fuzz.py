"""Coverage-guided fuzzing of the checkpoint reader with atheris, in an environment of its own:

    python -m venv /tmp/fuzz && /tmp/fuzz/bin/pip install atheris -e packages/bringup
    unzip -d /tmp/corpus packages/bringup/tests/fuzz/pickle_corpus.zip
    /tmp/fuzz/bin/python packages/bringup/tests/fuzz/pickle_fuzz.py /tmp/corpus -max_total_time=300 -max_len=4096

libFuzzer adds inputs that reach new code to the first folder (`-merge=1 NEW OLD` keeps the smallest set, which
goes back into the archive). A crash is an exception other than `BringupError`, a hang, or 512 MB of memory.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))
with atheris.instrument_imports(include=["bringup.checkpoints"]):
    from pickle_target import one_input

    import bringup.checkpoints  # noqa: F401 - instrumented here

atheris.Setup([*sys.argv, "-rss_limit_mb=512", "-timeout=90"], one_input)
atheris.Fuzz()
