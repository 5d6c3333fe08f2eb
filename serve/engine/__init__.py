"""Running a model: token ids in, token ids out. Nothing here knows of text."""
