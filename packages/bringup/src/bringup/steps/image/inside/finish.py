"""In the final stage: take away the old metadata, then prove imports and that torch serves the chips."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# A CPU build has no such list; `torch.cuda.get_arch_list` says nothing where no GPU is, as in a build.
_ARCHITECTURES = (
    "import torch; flags = getattr(torch._C, '_cuda_getArchFlags', str); "
    "print('torch:', torch.__version__, torch.version.cuda, flags() or '')"
)


def remove(paths: list[str]) -> int:
    """Delete what the list names; links are taken away, never followed."""
    count = 0
    for text in paths:
        path = Path(text)
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(str(path))
        else:
            continue
        count += 1
    return count


def ask(code: str) -> str:
    """What the interpreter answers, isolated from the working folder.

    Raises:
        SystemExit: it failed; its own words are printed.
    """
    ran = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, cwd="/")
    if ran.returncode:
        print(ran.stdout + ran.stderr, file=sys.stderr)
        raise SystemExit(f"bringup: the image fails its check: {code.split(';')[0]}")
    return ran.stdout.strip()


def serves(flags: list[str], chip: str) -> bool:
    """Whether torch's list of architectures has code for a chip: same major, not newer; or PTX, not newer."""
    wanted = int(chip[3:])
    for flag in flags:
        match = re.match(r"^(sm|compute)_(\d+)([af]?)$", flag)
        if not match:
            continue
        number = int(match[2])
        if match[3] == "a" and number != wanted:
            continue
        same_major = number // 10 == wanted // 10
        if number <= wanted and (same_major or (match[1] == "compute" and not match[3])):
            return True
    return False


def main() -> None:
    """Read `image.json` and `removed.txt` beside this file."""
    described = json.loads((HERE / "image.json").read_text(encoding="utf-8"))
    removed = (HERE / "removed.txt").read_text(encoding="utf-8").splitlines()
    print(f"bringup: {remove(removed)} of {len(removed)} replaced or unused entries taken away")
    for name in described["imports"]:
        ask(f"import {name}")
        print(f"bringup: import {name}: ok")
    if described["torch"] or described["gpus"]:
        version, cuda, *flags = ask(_ARCHITECTURES).rpartition("torch:")[2].split()
        print(f"bringup: torch {version}, CUDA {cuda}, {' '.join(flags) or 'no GPU code'}")
        if described["torch"] not in (None, version.split("+")[0]):
            raise SystemExit(f"bringup: torch {version} is imported, not {described['torch']}")
        lacking = [chip for chip in described["gpus"] if not serves(flags, chip)]
        if lacking:
            raise SystemExit(f"bringup: torch {version} has no code for {', '.join(lacking)}")


if __name__ == "__main__":
    main()
