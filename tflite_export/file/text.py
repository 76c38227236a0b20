"""Text files of the user's."""

from __future__ import annotations

from pathlib import Path


def text_of(path: Path) -> str:
    """The content of a text file, whatever ends its lines.

    Raises:
        ValueError: it is in another encoding than UTF-8, or no text; names the file.
    """
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: no text in UTF-8 (byte {error.object[error.start]:#04x} at {error.start}): "
            "save it in that encoding"
        ) from error
