"""What a check says about one place of a file."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Finding:
    """One rule that a file breaks: where, which rule, what to do, and who says so."""

    operator: str
    rule: str
    advice: str
    source: str = ""
