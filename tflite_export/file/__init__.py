"""TensorFlow Lite files: read, written, packed, inspected."""
