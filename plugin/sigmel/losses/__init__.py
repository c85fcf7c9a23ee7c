"""Losses over graphs and of transducers."""
