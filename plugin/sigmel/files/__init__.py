"""Reading and writing: audio, manifests, lists of recordings; atomically, and in several processes."""
