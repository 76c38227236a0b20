"""Values as JSON has them."""

from __future__ import annotations

import math
from typing import Any


def finite(value: Any) -> Any:
    """Dictionaries, lists and numbers for JSON, which knows no infinities: they are None.

    Example:
        >>> finite({"sqnr": float("inf"), "codes": (1, 2)})
        {'sqnr': None, 'codes': [1, 2]}
    """
    if isinstance(value, dict):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.item() if hasattr(value, "item") else value
