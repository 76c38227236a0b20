"""What a quantization did, for people."""
