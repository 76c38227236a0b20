"""A Keras 3 model without its weights, from a translated configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from tfeptq.foreign.errors import ForeignModelError
from tfeptq.foreign.keras2_config import translated
from tfeptq.foreign.keras2_layers import OBJECTS


def rebuilt(entry: Mapping[str, Any]) -> keras.Model:
    """The model of a `{"class_name", "config"}` of Keras 2.

    Raises:
        ForeignModelError: it is a subclassed model, or holds a layer that Keras 3 cannot have.
    """
    found = translated(entry)
    if found["class_name"] not in ("Functional", "Sequential"):
        raise ForeignModelError(f"its class {found['class_name']} describes no layers")
    kind = keras.Sequential if found["class_name"] == "Sequential" else keras.Model
    return kind.from_config(found["config"], custom_objects=OBJECTS)
