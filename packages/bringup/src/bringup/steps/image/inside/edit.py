"""In the builder stage: source edits where the fault is present; changed files go below `/changes`."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

_FIRST_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include\b", re.MULTILINE)
_ONCE = re.compile(r"^[ \t]*#[ \t]*pragma[ \t]+once[^\n]*\n", re.MULTILINE)


def insert_include(text: str, header: str) -> str:
    """The header before the first include, else after `#pragma once`, else at the top."""
    line = f"#include {header if header.startswith(('<', chr(34))) else f'<{header}>'}\n"
    first = _FIRST_INCLUDE.search(text)
    once = _ONCE.search(text)
    at = first.start() if first else once.end() if once else 0
    return text[:at] + line + text[at:]


def edited(text: str, row: dict[str, str]) -> str:
    """The text after one edit; the same text where the fault is absent or mended already."""
    if not re.search(row["fault"], text, re.MULTILINE):
        return text
    if row["absent"] and re.search(row["absent"], text, re.MULTILINE):
        return text
    if row["kind"] == "insert-include":
        return insert_include(text, row["value"])
    return re.sub(row["fault"], row["value"], text, flags=re.MULTILINE)


def apply(row: dict[str, str], file: Path) -> bool:
    """Do one edit to one file; whether it changed."""
    before = file.read_bytes()
    text = before.decode("utf-8", errors="surrogateescape")
    if row["kind"] == "rewrite-torch-load":
        if re.search(row["fault"], text, re.MULTILINE):
            program = "from bringup.cli.main import main; main()"
            subprocess.run([sys.executable, "-c", program, "rewrite", str(file)], check=True)
    else:
        after = edited(text, row).encode("utf-8", errors="surrogateescape")
        if after != before:
            file.write_bytes(after)
    return file.read_bytes() != before


def main() -> None:
    """`edit.py --source DIR`: every edit of `image.json` on the files that its glob names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--context", type=Path, default=Path("/bringup"))
    parser.add_argument("--changes", type=Path, default=Path("/changes"))
    arguments = parser.parse_args()
    described = json.loads((arguments.context / "image.json").read_text(encoding="utf-8"))
    for row in described["edits"]:
        changed = [
            file
            for file in sorted(arguments.source.glob(row["files"]))
            if file.is_file() and not file.is_symlink() and apply(row, file)
        ]
        print(f"bringup: {row['id']}: {len(changed)} files")
        for file in changed:
            if arguments.changes in file.parents:
                continue
            target = arguments.changes / str(file.resolve()).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(str(file), str(target))


if __name__ == "__main__":
    main()
