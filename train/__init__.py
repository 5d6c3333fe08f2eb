"""From repositories to a dataset, to an adapter or checkpoint, to a merged checkpoint."""
