"""Layer names in settings."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def refuse_unknown(setting: str, given: Iterable[str], names: Sequence[str], kind: str) -> None:
    """Raises ValueError for a name in `given` that is not in `names`, with the nearest one.

    Args:
        setting: name of the setting that holds `given`.
        kind: what `names` are, in the plural.
    """
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(
                f"{setting} names the layer {name!r}, which is none of the model's {kind} once it "
                f"is prepared; {hint}there are: {', '.join(dict.fromkeys(names))}"
            )
