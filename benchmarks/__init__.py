"""Measurements on real models; `python -m benchmarks.<name>`. Not part of the package."""
