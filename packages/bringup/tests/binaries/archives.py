"""Archives for the tests: wheels and container images, made with the standard library."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import zstandard

Files = Mapping[str, bytes | None]


def wheel(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip with these members."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def layer(files: Files, style: int = tarfile.PAX_FORMAT) -> bytes:
    """A layer; None makes a folder, and a value that begins with "->" a symbolic link."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=style) as archive:
        for name, data in files.items():
            row = tarfile.TarInfo(name)
            if data is None:
                row.type = tarfile.DIRTYPE
            elif data.startswith(b"->"):
                row.type, row.linkname = tarfile.SYMTYPE, data[2:].decode()
            else:
                row.size = len(data)
            archive.addfile(row, io.BytesIO(data) if data and row.size else None)
    return packed.getvalue()


def compress(data: bytes, way: str) -> bytes:
    """As "plain", "gzip" or "zstd"."""
    if way == "gzip":
        return gzip.compress(data, 1)
    return zstandard.compress(data, 1) if way == "zstd" else data


def _tar(files: Mapping[str, bytes]) -> bytes:
    return layer(files)


def docker_image(path: Path, layers: Sequence[bytes], *others: Sequence[bytes]) -> Path:
    """As `docker save` writes one image or several: manifest.json at the end."""
    files: dict[str, bytes] = {"config.json": json.dumps({"config": {"Env": ["PATH=/opt/env/bin"]}}).encode()}
    manifest = []
    for number, image in enumerate((layers, *others), start=1):
        names = [f"{hashlib.sha256(data).hexdigest()}/layer.tar" for data in image]
        files |= dict(zip(names, image, strict=True))
        manifest.append({"Config": "config.json", "RepoTags": [f"x:{number}"], "Layers": names})
    files["manifest.json"] = json.dumps(manifest).encode()
    path.write_bytes(_tar(files))
    return path


def oci_image(path: Path, layers: Sequence[bytes]) -> Path:
    """The OCI layout, with an index in the index as buildx writes it."""
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}

    def blob(data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        files[f"blobs/sha256/{digest}"] = data
        return {"digest": f"sha256:{digest}", "size": len(data)}

    config = blob(json.dumps({"config": {}}).encode())
    manifest = blob(json.dumps({"config": config, "layers": [blob(data) for data in layers]}).encode())
    inner = blob(json.dumps({"manifests": [manifest]}).encode())
    files["index.json"] = json.dumps({"manifests": [inner]}).encode()
    path.write_bytes(_tar(files))
    return path
