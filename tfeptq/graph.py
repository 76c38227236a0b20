"""Where `prepare` was until it got a room of its own; its public names stay importable."""

from tfeptq.preparation import UnsupportedLayerError, prepare

__all__ = ["UnsupportedLayerError", "prepare"]
