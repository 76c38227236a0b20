"""Ranges of activations, thresholds of weights, corrected biases."""
