"""Times of kinds of operators on one processor, a table a target."""
