"""From repositories to a dataset, from a dataset to an adapter or checkpoint, from an adapter to a merged checkpoint."""
