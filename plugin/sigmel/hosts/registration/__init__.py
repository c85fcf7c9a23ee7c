"""How hosts find our classes; nothing here imports a host."""
