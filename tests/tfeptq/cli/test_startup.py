"""What TensorFlow says while it starts is for those whom it helps."""

from __future__ import annotations

import os

import pytest

from tfeptq.cli import startup


@pytest.mark.parametrize(
    ("end", "is_shown"), [(None, False), (ImportError, True), (KeyboardInterrupt, False)]
)
def test_chatter_is_shown_where_the_start_fails(end, is_shown, capfd):
    def start():
        with startup._stderr_held_back():
            os.write(2, b"no GPU here\n")
            if end is not None:
                raise end

    if end is None:
        start()
    else:
        with pytest.raises(end):
            start()
    os.write(2, b"afterwards\n")
    lines = capfd.readouterr().err.splitlines()
    assert lines == [*["no GPU here"] * is_shown, "afterwards"]
