"""CPU libraries on disk: compiled object files in one `ar` archive, which is loaded without compiler or linker.

The common `ar` format: a magic line, then for each member a header of 60 bytes in ASCII and its bytes, padded to an
even length. Times and owners are zero, so that equal objects make equal archives.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from toolchain.contracts.errors import ArtifactError

MAGIC = b"!<arch>\n"
HEADER_BYTES, END = 60, b"`\n"
NAME_BYTES = 15


def write(path: Path, objects: Mapping[str, bytes]) -> None:
    """Write named objects, in their order. Raises ValueError for a name that the format cannot hold."""
    parts = [MAGIC]
    for name, content in objects.items():
        if not name.isascii() or "/" in name or not 0 < len(name) <= NAME_BYTES:
            raise ValueError(f"'{name}' cannot be a member's name")
        header = f"{name + '/':<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}".encode()
        parts += [header, END, content, b"\n" * (len(content) % 2)]
    path.write_bytes(b"".join(parts))


def read(path: Path) -> dict[str, bytes]:
    """The objects by name. Raises ArtifactError when the file is missing, no archive, or truncated."""
    try:
        data = path.read_bytes()
        if not data.startswith(MAGIC):
            raise ValueError("it is no archive")
        objects, at = {}, len(MAGIC)
        while at < len(data):
            header, begin = data[at : at + HEADER_BYTES], at + HEADER_BYTES
            if len(header) < HEADER_BYTES or not header.endswith(END):
                raise ValueError("a member's header is damaged")
            size = int(header[48:58])
            if begin + size > len(data):
                raise ValueError("it is truncated")
            objects[header[:16].decode("ascii").strip().rstrip("/")] = data[begin : begin + size]
            at = begin + size + size % 2
        return objects
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be loaded ({error})", "Compile the bundle again.") from None
