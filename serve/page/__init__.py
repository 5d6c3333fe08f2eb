"""The status page: files that a browser gets as they are, and the JSON that they poll."""
