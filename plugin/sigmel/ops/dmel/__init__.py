"""From spectra and log-mel to dMel ids, and from ids to embeddings."""
