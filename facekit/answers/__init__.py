"""A trained model in use: loading it, its outputs and probabilities, and its answers for photos."""
