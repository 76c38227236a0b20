"""What is decided before anything is quantized: quantizers of tensors, widths, granularities."""
