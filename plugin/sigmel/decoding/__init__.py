"""Decoding: from the log-probabilities of a model to words."""
