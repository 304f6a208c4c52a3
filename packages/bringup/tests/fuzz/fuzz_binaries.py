"""Coverage-guided fuzzing of the binary readers, with atheris.

    python3.11 -m venv /tmp/fuzz && /tmp/fuzz/bin/pip install atheris zstandard -e packages/bringup --no-deps
    cd packages/bringup && PYTHONPATH=. /tmp/fuzz/bin/python tests/fuzz/fuzz_binaries.py elf \
        NEW_CORPUS tests/fuzz/corpus/elf -max_total_time=300 -rss_limit_mb=400 -timeout=5

The first argument names a target of tests/binaries/harness.py; the others are libFuzzer's. To keep what was
found: the same with `-merge=1 tests/fuzz/corpus/elf NEW_CORPUS`. The suite replays the kept corpus.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["bringup"]):
    from tests.binaries.harness import TARGETS


def main() -> None:
    """Run one target until the time is over or something breaks."""
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, lambda data: target(bytes(data)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
