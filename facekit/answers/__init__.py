"""A trained model in use: loading it, its outputs and its probabilities."""
