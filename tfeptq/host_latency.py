"""The latency tables that come with the package: "host", for targets that this computer can time.

A table holds milliseconds per million multiplications of each kind of operator at each width, by
the integer type of the kernel: a guide where nothing was measured. `python -m
benchmarks.host_latency` makes it; `tfeptq latency` measures a model's own layers.
"""

from __future__ import annotations

from pathlib import Path

#: What `Budget.latency_table` calls them.
HOST = "host"

#: Beside this file: a folder of data is taken for a package that was forgotten.
_TABLES = {
    file.stem.removeprefix("host_latency_"): file
    for file in sorted(Path(__file__).parent.glob("host_latency_*.csv"))
}


def latency_file(table: str, target: str) -> Path:
    """Path of a latency table: of "host" the one of `target`, of anything else itself.

    Raises:
        ValueError: "host", and the target has none.

    Example:
        >>> latency_file("mine.csv", "coral").name
        'mine.csv'
        >>> latency_file("host", "android").name
        'host_latency_android.csv'
    """
    if table != HOST:
        return Path(table)
    if target not in _TABLES:
        raise ValueError(
            f"budget: latency_ms needs the times of layers, and none come with the package for "
            f"target {target!r} (only for {', '.join(_TABLES)}): give latency_table, a CSV "
            "file with the columns operator, bits and ms; `tfeptq latency` measures one"
        )
    return _TABLES[target]
