"""What recipes train, decode and speak with in NeMo."""
