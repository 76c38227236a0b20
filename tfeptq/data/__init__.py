"""Calibration samples: taken, ordered, copied, in batches that fit into memory."""
