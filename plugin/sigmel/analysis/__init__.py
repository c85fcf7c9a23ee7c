"""What models did: scores, tables, plots, routing statistics."""
