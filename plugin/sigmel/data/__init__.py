"""Data: audio files, manifests, synthetic speech and augmentation."""
