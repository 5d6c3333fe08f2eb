"""From a bundle to completions, over HTTP in the protocols that editors speak."""
