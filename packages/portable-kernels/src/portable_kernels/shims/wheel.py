"""Build a shim's wheel: pure Python, reproducible to the byte."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

from portable_kernels.shims.manifest import Shim

_EPOCH = (1980, 1, 1, 0, 0, 0)


def _metadata(shim: Shim) -> str:
    return (
        "Metadata-Version: 2.4\n"
        f"Name: {shim.distribution}\n"
        f"Version: {shim.shim_version}\n"
        f"Summary: {shim.summary}\n"
        "License-Expression: Apache-2.0\n"
        f"Project-URL: Original, {shim.original_url}\n"
        "Requires-Python: >=3.10\n"
        "Requires-Dist: portable-kernels\n"
        "\n"
        f"{', '.join(shim.import_names)}, served by portable-kernels. It holds no code of the original "
        f"({shim.original_licence}, {shim.original_url}).\n"
    )


def _record_line(name: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(data)}\n"


def build_wheel(shim: Shim, folder: Path) -> Path:
    """Write the shim's wheel into `folder` and return its path."""
    info = f"{shim.distribution}-{shim.shim_version}.dist-info"
    members = {
        path.relative_to(shim.folder).as_posix(): path.read_bytes()
        for name in shim.import_names
        for path in sorted((shim.folder / name).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    members[f"{info}/METADATA"] = _metadata(shim).encode()
    members[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: portable-kernels\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    members[f"{info}/top_level.txt"] = "".join(f"{name}\n" for name in shim.import_names).encode()
    record = "".join(_record_line(name, data) for name, data in members.items()) + f"{info}/RECORD,,\n"
    members[f"{info}/RECORD"] = record.encode()
    path = folder / f"{shim.distribution}-{shim.shim_version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return path
