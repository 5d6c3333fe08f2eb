"""What a training needs before anything is downloaded: memory, time and cost, from a `config.json` alone."""
