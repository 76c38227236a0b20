"""From learned factors to integers that every kernel can hold."""
