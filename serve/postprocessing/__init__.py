"""Completions worth accepting: rules that shape what the model writes, the same for every editor.

A request for raw text (`serve/requests.py`) passes by them all.
"""
