"""How a decoding graph is searched."""
