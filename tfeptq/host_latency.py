"""The latency tables that come with the package: "host", for targets that this computer can time.

A table holds milliseconds per million multiplications of each kind of operator at each width, by
the integer type of the kernel: a guide where nothing was measured. `python -m
benchmarks.host_latency` makes it; `tfeptq latency` measures a model's own layers.
"""

from __future__ import annotations

from pathlib import Path

#: What `Budget.latency_table` calls them.
HOST = "host"

_FOLDER = Path(__file__).parent / "host_latencies"


def host_targets() -> tuple[str, ...]:
    """Targets that have such a table."""
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.csv")))


def latency_file(table: str, target: str) -> Path:
    """Path of a latency table: of "host" the one of `target`, of anything else itself.

    Raises:
        ValueError: "host", and the target has none.

    Example:
        >>> latency_file("mine.csv", "coral").name
        'mine.csv'
        >>> latency_file("host", "android").name
        'android.csv'
    """
    if table != HOST:
        return Path(table)
    if target not in host_targets():
        raise ValueError(
            f"budget: latency_ms needs the times of layers, and none come with the package for "
            f"target {target!r} (only for {', '.join(host_targets())}): give latency_table, a CSV "
            "file with the columns operator, bits and ms; `tfeptq latency` measures one"
        )
    return _FOLDER / f"{target}.csv"
