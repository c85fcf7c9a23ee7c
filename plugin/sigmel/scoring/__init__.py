"""Error rates, results and comparisons."""
