"""Sources of extensions that are written for a torch of long ago and compile with none of today's.

Sources: torch's release notes (1.5: AT_CHECK; 1.11: THC, of which two headers stayed); torch 2.6 has no
conversion of `x.type()` to a ScalarType any more, which its AT_DISPATCH macros took
(github.com/NVIDIAGameWorks/kaolin/issues/865).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

SUFFIXES = (".cu", ".cuh", ".cpp", ".cc", ".cxx", ".h", ".hpp")


@dataclass(frozen=True)
class OldCxx:
    """The first place of a file that uses what torch has no more.

    Attributes:
        kind: "dispatch-type", "at-check" or "thc-header".
        count: how many places of the file do so.
    """

    kind: str
    file: str
    line: int
    text: str
    count: int


_PATTERNS = {
    "dispatch-type": re.compile(r"\bAT_DISPATCH_\w+\s*\(\s*[\w.>\[\]()-]+?(?:\.|->)type\(\)\s*,"),
    "at-check": re.compile(r"\bAT_CHECK\s*\("),
    "thc-header": re.compile(
        r"^[ \t]*#[ \t]*include[ \t]*[<\"]THC/(?!THCAtomics\.cuh|THCDeviceUtils\.cuh)[^\n]*", re.MULTILINE
    ),
}
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
# What makes an old name known again, or is compiled with old releases alone.
_OWN = {
    "at-check": re.compile(r"define[ \t]+AT_CHECK\b"),
    "thc-header": re.compile(r"#[ \t]*(?:if|el)[^\n]*\n\s*$"),
}


def defines_at_check(text: str) -> bool:
    """Whether a source brings AT_CHECK back itself, for all that include it."""
    return "AT_CHECK" in text and _OWN["at-check"].search(text) is not None


def old_cxx(text: str, file: str) -> Iterator[OldCxx]:
    """What a source uses that torch has no more, each kind once."""
    if not any(word in text for word in ("type()", "AT_CHECK", "THC/")):
        return
    plain = _COMMENT.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    for kind, pattern in _PATTERNS.items():
        places = [match for match in pattern.finditer(plain) if not _is_guarded(kind, plain[: match.start()])]
        if places:
            line = plain.count("\n", 0, places[0].start()) + 1
            yield OldCxx(kind, file, line, " ".join(places[0][0].split()), len(places))


def _is_guarded(kind: str, before: str) -> bool:
    """Whether a header is included under a condition, which may be one of torch's release."""
    return kind == "thc-header" and _OWN[kind].search(before) is not None
