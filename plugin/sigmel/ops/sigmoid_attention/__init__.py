"""Attention whose weights are sigmoids of the scores (arXiv 2409.04431)."""
