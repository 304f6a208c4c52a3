"""Why a build failed, read from its log: memory, disk, link-time optimisation, or its own errors."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from typing import Literal

Cause = Literal["memory", "disk", "lto", "compiler-crash", "errors"]

_MEMORY = re.compile(
    # pip and CMake indent what the shell says; nvcc's `--error` is its compiler's exit status.
    r"Killed signal terminated program|died due to signal 9|fatal error: Killed|^\s*Killed\s*$"
    r"|# --error 0x89 --"
    r"|exit (?:status|code):? (?:-9|137)\b|returned non-zero exit status -?(?:9|137)\b|exited with code 137"
    r"|died with <Signals\.SIGKILL|Error 137\b|signal 9, Killed"
    r"|virtual memory exhausted|out of memory allocating|Cannot allocate memory|std::bad_alloc"
    r"|LLVM ERROR: out of memory|Memory allocation failure|error trying to exec|fatal error C1060"
    r"|unable to allocate memory|memory exhausted|Resource temporarily unavailable"
    # What nvcc's front end says when its allocator fails while it reports that its allocator failed.
    r"|Loop in catastrophic error processing",
    re.MULTILINE | re.IGNORECASE,
)
_DISK = re.compile(r"No space left on device|Disk quota exceeded|not enough space on the disk|Errno 28")
_LTO = re.compile(
    r"lto-wrapper|lto1: fatal|plugin needed to handle lto object|could not run lto|liblto_plugin"
    r"|fat-lto-objects"
)
_CRASH = re.compile(r"died due to signal (\d+)|internal compiler error: (\w[\w ]+)|Segmentation fault")
_ERROR = re.compile(
    r"\berror\s*(?::|[A-Z]?\d+:)|\bfatal\b|\bcatastrophic\b|undefined reference|No such file"
    r"|command not found|CMake Error|(?:Error|Exception): \S",
    re.IGNORECASE,
)
_NOISE = re.compile(
    r"subprocess-exited-with-error|subprocess.CalledProcessError|error: command .* failed|note: This error"
    r"|CalledProcessError|metadata-generation-failed|Failed building wheel|ERROR: Failed to build"
    r"|^\s*\[end of output\]|raise |_error\(|from error"
)


def cause_of(log: str, code: int) -> Cause:
    """What ended the build, the most telling reason first.

    Args:
        code: exit status of the build; negative: the signal that ended it.
    """
    if _DISK.search(log):
        return "disk"
    if _MEMORY.search(log) or code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return "memory"
    if _LTO.search(log):
        return "lto"
    return "compiler-crash" if _CRASH.search(log) else "errors"


def first_errors(log: str, most: int = 3) -> str:
    """The first lines that name an error; the last ones of a log that names none."""
    found = list(_errors(log))[:most]
    lines = [line.strip() for line in log.strip().splitlines() if line.strip()]
    return " · ".join(found or lines[-most:])[:600]


def _errors(log: str) -> Iterator[str]:
    seen = set()
    lines = [text for line in log.splitlines() if (text := line.strip())]
    for text, following in zip(lines, [*lines[1:], ""], strict=True):
        if _ERROR.search(text) and not _NOISE.search(text) and text not in seen:
            seen.add(text)
            # CMake names the place and the command first; what is wrong stands below.
            yield f"{text} {following}"[:240] if text.endswith("):") else text[:240]
