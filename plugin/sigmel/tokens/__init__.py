"""Text tokenizers, and archives and batches of dMel tokens."""
