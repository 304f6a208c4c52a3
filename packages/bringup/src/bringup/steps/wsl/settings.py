"""`.wslconfig` as text: read, derived from the host, edited key by key. Nothing here touches a file.

Source: Microsoft Learn, «Advanced settings configuration in WSL»: section `[wsl2]`; sizes are whole numbers
with GB or MB, in powers of 1,024; a size without a unit is in bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

SECTION = "wsl2"
GB = 1 << 30
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(TB|GB|MB|KB|B|)", re.IGNORECASE)
_UNITS = {"TB": 1 << 40, "GB": GB, "MB": 1 << 20, "KB": 1 << 10, "B": 1, "": 1}
_HEADING = re.compile(r"\s*\[\s*([^\]]+?)\s*\]")
_SETTING = re.compile(
    r"(?P<head>\s*(?P<key>[^#=\s][^=]*?)\s*=[ \t]*)(?P<value>[^#\r\n]*?)(?P<tail>[ \t]*(?:#.*)?)$"
)
# Of what was asked for, the guest's kernel keeps some for itself: 50 GB shows as about 49.
_SEEN_SHARE = 0.95
_WINDOWS_SHARE = 0.2
_WINDOWS_LEAST = 4 * GB
_SWAP_SHARE = 0.4
_SWAP_DISK_SHARE = 0.25


@dataclass(frozen=True)
class WindowsHost:
    """What Windows has. Bytes; `disk_free` of the drive that holds WSL2's swap file, None where unknown."""

    memory: int
    processors: int
    disk_free: int | None = None


@dataclass(frozen=True)
class Advice:
    """What `[wsl2]` should say. `memory` and `swap` in GB as the file counts them."""

    memory: int
    processors: int
    swap: int

    def settings(self) -> dict[str, str]:
        """Key → value, as they are written."""
        return {
            "memory": f"{self.memory}GB",
            "processors": str(self.processors),
            "swap": f"{self.swap}GB",
        }


def parse_size(text: str) -> int | None:
    """Bytes of "50GB", "8192MB", "4294967296"; None for what is no size."""
    match = _SIZE.fullmatch(text.strip().strip('"'))
    return int(float(match[1]) * _UNITS[match[2].upper()]) if match else None


def _even(gigabytes: float) -> int:
    return max(2, int(gigabytes) // 2 * 2)


def derive(host: WindowsHost) -> Advice:
    """Leave Windows a fifth of the memory, at least 4 GB; all processors; swap two fifths of the memory.

    A host of 64 GB and 24 threads gives 50 GB, 24 and 20 GB. Swap takes at most a quarter of the free disk.
    """
    # Firmware keeps some of what is installed: 63.7 stands for 64.
    installed = round(host.memory / GB)
    memory = _even(min(installed * (1 - _WINDOWS_SHARE), installed - _WINDOWS_LEAST / GB))
    swap = _even(memory * _SWAP_SHARE)
    if host.disk_free is not None:
        swap = min(swap, int(host.disk_free * _SWAP_DISK_SHARE / GB))
    return Advice(memory, host.processors, max(0, swap))


def read_settings(text: str) -> dict[str, str]:
    """Keys of `[wsl2]` in lower case → value. Of a key that stands twice, the last counts."""
    found: dict[str, str] = {}
    section = ""
    for line in text.lstrip("\ufeff").splitlines():
        heading = _HEADING.match(line)
        setting = _SETTING.match(line)
        if heading:
            section = heading[1].lower()
        elif setting and section == SECTION:
            found[setting["key"].lower()] = setting["value"].strip()
    return found


def needed(advice: Advice, current: Mapping[str, str], host: WindowsHost) -> dict[str, str]:
    """The settings that must change: what gives the guest enough already stays as the user wrote it."""
    changes = {}
    for key, value in advice.settings().items():
        given = current.get(key)
        if given is not None and _enough(key, given, value, host):
            continue
        changes[key] = value
    return changes


def _enough(key: str, given: str, wanted: str, host: WindowsHost) -> bool:
    if key == "processors":
        return given.isdigit() and int(wanted) <= int(given) <= host.processors
    seen, least = parse_size(given), parse_size(wanted)
    assert least is not None
    if seen is None or seen < least:
        return False
    # More than Windows can spare is no better: then Windows itself runs out.
    return key != "memory" or seen <= host.memory * 0.9


def with_settings(text: str, changes: Mapping[str, str]) -> str:
    """The file's text with these keys of `[wsl2]` set; everything else stays, letter by letter.

    Comments, other keys and sections, the byte-order mark and the line endings are kept. A key that stands in
    the section several times is set each time. A section that is missing is added at the end.
    """
    ending = "\r\n" if "\r\n" in text or not text.strip() else "\n"
    lines = text.splitlines(keepends=True)
    left = dict(changes)
    section = ""
    insert_at: int | None = None
    for number, line in enumerate(lines):
        body = line.rstrip("\r\n")
        heading = _HEADING.match(body.lstrip("\ufeff"))
        if heading:
            section = heading[1].lower()
        if section != SECTION:
            continue
        setting = None if heading else _SETTING.match(body)
        if heading or setting:
            # New keys come after these, not after comments that may belong to the next section.
            insert_at = number + 1
        key = setting["key"].lower() if setting else ""
        if setting and key in changes:
            lines[number] = f"{setting['head']}{changes[key]}{setting['tail']}{line[len(body) :]}"
            left.pop(key, None)
    added = [f"{key}={value}{ending}" for key, value in left.items()]
    if not added:
        return "".join(lines)
    if lines and insert_at in (None, len(lines)) and not lines[-1].endswith(("\n", "\r")):
        lines[-1] += ending
    if insert_at is None:
        blank = [ending] if lines and lines[-1].strip() else []
        return "".join([*lines, *blank, f"[{SECTION}]{ending}", *added])
    return "".join([*lines[:insert_at], *added, *lines[insert_at:]])


def satisfied(asked: str | None, seen: int) -> bool:
    """Whether the guest has at least 95% of what the file asks for; nothing asked is nothing missed."""
    size = parse_size(asked) if asked else None
    return size is None or seen >= _SEEN_SHARE * size
