"""What a .nemo, an ESPnet archive and a .pth hold: read, written, converted, upcycled."""
