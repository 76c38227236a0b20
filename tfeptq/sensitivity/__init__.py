"""What a width is expected to cost in loss."""
