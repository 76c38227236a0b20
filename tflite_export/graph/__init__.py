"""The integer graph, its validation, its arithmetic and the proof that it stays within it."""
