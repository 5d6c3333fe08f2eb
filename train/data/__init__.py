"""From repositories to a dataset: sources, filters, duplicates, the held-out split, parquet."""
