"""Speech features."""
