"""A model of another format that cannot be one of Keras 3."""


class ForeignModelError(ValueError):
    """The message is the reason, in one line."""
