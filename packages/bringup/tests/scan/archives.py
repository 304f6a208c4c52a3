"""Image archives as `docker save` writes them, from folders: docker's layout and OCI's."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

Layer = dict[str, bytes | str]


def layer(files: Layer, packed: bool = False) -> bytes:
    """A layer: bytes are files, text is a symbolic link's target."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    data = buffer.getvalue()
    return gzip.compress(data, 1) if packed else data


def files_below(root: Path, inside: str) -> Layer:
    """A folder's files and links, as they would lie at `inside` of an image."""
    found: Layer = {}
    for path in sorted(root.rglob("*")):
        name = f"{inside}/{path.relative_to(root).as_posix()}"
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def _write(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def docker_archive(path: Path, layers: Sequence[bytes], config: dict[str, object]) -> Path:
    """`docker save` before version 25: a manifest and one folder a layer."""
    members = {f"layer{number}/layer.tar": data for number, data in enumerate(layers)}
    names = list(members)
    members["config.json"] = json.dumps(config).encode()
    manifest = [{"Config": "config.json", "RepoTags": ["lab:1"], "Layers": names}]
    members["manifest.json"] = json.dumps(manifest).encode()
    return _write(path, members)


def oci_archive(path: Path, layers: Sequence[bytes], config: dict[str, object]) -> Path:
    """OCI's layout: everything is a blob under its digest."""
    members: dict[str, bytes] = {}

    def blob(data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        members[f"blobs/sha256/{digest}"] = data
        return {"digest": f"sha256:{digest}", "size": len(data)}

    manifest = {"config": blob(json.dumps(config).encode()), "layers": [blob(data) for data in layers]}
    index = {"schemaVersion": 2, "manifests": [blob(json.dumps(manifest).encode())]}
    members["index.json"] = json.dumps(index).encode()
    members["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    return _write(path, members)
