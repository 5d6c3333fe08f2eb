"""From the documents of a dataset to batches of token ids."""
