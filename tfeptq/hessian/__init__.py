"""Second-order information: how much the output moves when a tensor or a weight does."""
