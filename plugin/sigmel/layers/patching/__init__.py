"""Sigmoid attention in models of others."""
