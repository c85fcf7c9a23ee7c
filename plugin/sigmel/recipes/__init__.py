"""The workshop: corpora, augmentation, and the programs that recipes train and decode with."""
