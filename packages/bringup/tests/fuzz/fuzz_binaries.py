"""Coverage-guided fuzzing of the binary readers, with atheris.

    python3.11 -m venv /tmp/fuzz
    /tmp/fuzz/bin/pip install atheris zstandard && /tmp/fuzz/bin/pip install --no-deps -e packages/bringup
    cd packages/bringup && mkdir -p /tmp/corpus/found && unzip -d /tmp/corpus tests/fuzz/binaries_corpus.zip
    PYTHONPATH=. /tmp/fuzz/bin/python tests/fuzz/fuzz_binaries.py elf /tmp/corpus/found /tmp/corpus/elf \
        -max_total_time=300 -rss_limit_mb=600 -timeout=10

The first argument names a target of tests/binaries/harness.py; the others are libFuzzer's. What is kept
stands in binaries_corpus.zip, a folder a target, small files only; the suite replays it.
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
