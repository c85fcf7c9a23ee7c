"""What is read and written: audio, manifests, lists of sources; safely, and by several processes."""
