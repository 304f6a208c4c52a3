"""One file over HTTP: gone on with where it broke off, mirrors in order, size and hash checked."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from email.message import Message
from pathlib import Path

from bringup.errors import BringupError

_PIECE = 1 << 20
_AGENT = {"User-Agent": "bringup"}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while piece := stream.read(_PIECE):
            digest.update(piece)
        return digest.hexdigest()


def _fetch(address: str, partial: Path, on_line: Callable[[str], None]) -> Message:
    """Append to `partial` what is missing of it. Returns the answer's headers."""
    have = partial.stat().st_size if partial.exists() else 0
    headers = _AGENT | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(address, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing is missing
            raise
        return error.headers
    with answer, partial.open("ab" if answer.status == 206 else "wb") as stream:
        done = stream.tell()
        total = done + int(answer.headers.get("Content-Length") or 0)
        while piece := answer.read(_PIECE):
            stream.write(piece)
            done += len(piece)
            on_line(f"Downloading {partial.stem} {done / 1e6:.0f} / {total / 1e6:.0f} MB")
        if total > done:
            raise OSError(f"the connection ended after {done} of {total} bytes")
        headers_seen: Message = answer.headers
        return headers_seen


def download(
    addresses: Sequence[str],
    path: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> Message | None:
    """Bring a file to `path`, from the first address that has it. None if it was there already.

    What a broken download left (`<name>.partial`) is gone on with; `path` exists only when it is whole.

    Raises:
        BringupError: `download-failed` when no address serves; `wrong-hash`, after which nothing is kept.
    """
    if path.exists() and (sha256 is None or sha256_of(path) == sha256):
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    failures: list[str] = []
    for address in addresses:
        for _ in range(2):  # once more: a server that hangs up in the middle is asked for the rest
            try:
                headers = _fetch(address, partial, on_line)
            except (OSError, http.client.HTTPException) as error:
                failures.append(f"{address}: {error}")
                if isinstance(error, urllib.error.HTTPError):
                    break
                continue
            _check(partial, path.name, size, sha256)
            partial.replace(path)
            return headers
    raise BringupError("download-failed", file=path.name, text=" · ".join(dict.fromkeys(failures)))


def _check(partial: Path, name: str, size: int | None, sha256: str | None) -> None:
    found = partial.stat().st_size
    wrong = f"{found} bytes, {size} expected" if size is not None and found != size else ""
    if not wrong and sha256 is not None and (digest := sha256_of(partial)) != sha256:
        wrong = f"sha256 {digest}, {sha256} expected"
    if wrong:
        partial.unlink()
        raise BringupError("wrong-hash", subject=name, text=wrong)
