"""Which layer gets which width."""
