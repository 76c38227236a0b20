"""Keras layers that fake-quantize, and the model that is made of them."""
