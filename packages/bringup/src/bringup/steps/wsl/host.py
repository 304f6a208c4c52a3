"""Where `.wslconfig` is and what the Windows host has, asked from Windows itself or through WSL's interop."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import psutil

from bringup.errors import BringupError
from bringup.facts.host import HostFacts
from bringup.steps.wsl.settings import WindowsHost

_POWERSHELL = "Windows/System32/WindowsPowerShell/v1.0/powershell.exe"
_QUESTION = (
    "[Console]::OutputEncoding = [Text.Encoding]::UTF8; "
    "$c = Get-CimInstance Win32_ComputerSystem; "
    "@{memory = [string]$c.TotalPhysicalMemory; processors = [int]$c.NumberOfLogicalProcessors; "
    "profile = $env:USERPROFILE; disk = [string](Get-PSDrive $env:SystemDrive[0]).Free} "
    "| ConvertTo-Json -Compress"
)
_ROOT = re.compile(r"^\s*root\s*=\s*\"?([^\"#\s]+)", re.MULTILINE)


@dataclass(frozen=True)
class WindowsFacts:
    """The host and the file. `profile` as Windows writes it."""

    host: WindowsHost
    profile: str
    file: Path


def parse_answer(text: str) -> tuple[WindowsHost, str]:
    """(host, profile folder) from PowerShell's JSON line; warnings before it are passed over.

    Raises:
        ValueError: there is no such line, or it lacks a field.
    """
    line = next((line for line in text.lstrip("\ufeff").splitlines() if line.strip().startswith("{")), None)
    if line is None:
        raise ValueError("PowerShell gave no JSON")
    row = json.loads(line)
    try:
        disk = int(row["disk"]) if row.get("disk") else None
        host = WindowsHost(int(row["memory"]), int(row["processors"]), disk)
        return host, str(row["profile"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"PowerShell's answer lacks {error}") from error


def mount_root(configuration: str) -> str:
    """Where WSL mounts drives, from the text of /etc/wsl.conf; "/mnt" by default."""
    section = re.search(r"^\s*\[automount\]\s*$(.*?)(?=^\s*\[|\Z)", configuration, re.MULTILINE | re.DOTALL)
    named = _ROOT.search(section[1]) if section else None
    return (named[1].rstrip("/") if named else "/mnt") or ""


def to_wsl_path(path: str, root: str = "/mnt") -> Path:
    """The place of "C:\\\\Users\\\\me" in the guest.

    Raises:
        ValueError: no drive letter (a network folder).
    """
    windows = PureWindowsPath(path)
    if not re.fullmatch(r"[A-Za-z]:", windows.drive):
        raise ValueError(f"{path} is on no drive")
    return Path(f"{root}/{windows.drive[0].lower()}", *windows.parts[1:])


def _powershell(root: str) -> str | None:
    usual = Path(f"{root}/c") / _POWERSHELL
    return shutil.which("powershell.exe") or (str(usual) if usual.is_file() else None)


def _wsl_configuration() -> str:
    try:
        return Path("/etc/wsl.conf").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def read_windows(facts: HostFacts) -> WindowsFacts:
    """Ask Windows, from itself or from within WSL2.

    Raises:
        BringupError: `wsl-not-windows` elsewhere, `wsl-one` in WSL 1, `wsl-no-interop` when Windows' programs
            cannot be started from the guest.
    """
    if facts.system == "windows":
        home = Path.home()
        free = shutil.disk_usage(home.anchor).free
        host = WindowsHost(psutil.virtual_memory().total, os.cpu_count() or 1, free)
        return WindowsFacts(host, str(home), home / ".wslconfig")
    if facts.wsl is None:
        raise BringupError("wsl-not-windows", exit_code=2)
    if facts.wsl == "1":
        raise BringupError("wsl-one", exit_code=2)
    root = mount_root(_wsl_configuration())
    program = _powershell(root)
    if program is None:
        raise BringupError("wsl-no-interop", exit_code=2, text="powershell.exe")
    command = [program, "-NoProfile", "-NonInteractive", "-Command", _QUESTION]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=60, check=False)
        host, profile = parse_answer(answer.stdout.decode("utf-8", errors="replace"))
        return WindowsFacts(host, profile, to_wsl_path(profile, root) / ".wslconfig")
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise BringupError("wsl-no-interop", exit_code=2, text=error) from error
