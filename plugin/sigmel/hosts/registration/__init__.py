"""How hosts come to know our classes; nothing here imports a host."""
