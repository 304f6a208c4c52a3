"""How much a plan will download: asked of the index, file by file, without fetching one."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse
from urllib.request import Request, url2pathname, urlopen


def certificates() -> ssl.SSLContext:
    """The certificates that pip would trust: a private CA named in the environment, else the system's."""
    named = (os.environ.get(name) for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"))
    return ssl.create_default_context(cafile=next((file for file in named if file), None))


def _size(url: str, context: ssl.SSLContext) -> int | None:
    location = urlparse(url)
    try:
        if location.scheme == "file":
            return Path(url2pathname(location.path)).stat().st_size
        with urlopen(Request(url, method="HEAD"), timeout=5, context=context) as answer:
            length = answer.headers.get("Content-Length")
            return int(length) if length else None
    except (OSError, URLError, ValueError):
        return None


def file_sizes(urls: Sequence[str]) -> list[int | None]:
    """Size in bytes of each file, None where the server does not say. Sixteen questions at a time."""
    context = certificates()
    with ThreadPoolExecutor(max_workers=16) as pool:
        return list(pool.map(lambda url: _size(url, context), urls))
