"""Commands of the training side, one module each."""
