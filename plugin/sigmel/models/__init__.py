"""Whole models, made of layers; they know no host."""
