"""How a decoding graph is made."""
