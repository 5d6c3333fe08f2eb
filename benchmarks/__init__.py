"""Measurements behind every claim about speed or quality: each script prints a table, and one JSON object last."""
