"""Corpora that recipes make or fetch."""
