"""Telling and writing the settings of editors: which file, what is in it already, and what it becomes."""
