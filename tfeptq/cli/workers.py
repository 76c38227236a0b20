"""Options of commands whose work processes may share."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

from cyclopts import Parameter

from tfeptq.cli.values import number, typed

Workers = Annotated[
    int | None,
    typed(
        number(int),
        metavar="N",
        help="So many processes share the work; needs the extra 'distributed'.",
    ),
]
Ray = Annotated[
    str | None,
    Parameter(
        help="Ray cluster on whose machines they run: auto, HOST:PORT or ray://HOST:PORT; by "
        "default this machine.",
        metavar="ADDRESS",
    ),
]


def sharing(workers: int | None, ray: str | None) -> contextlib.AbstractContextManager[Any]:
    """What `tfeptq.distribute` makes of the options; nothing where none was given.

    Raises:
        ValueError: no positive number, or Ray is not installed.
    """
    if workers is None and ray is None:
        return contextlib.nullcontext()
    from tfeptq.distributed.cluster import distribute

    try:
        return distribute(workers, address=ray)
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error
