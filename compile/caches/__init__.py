"""Two ways to keep keys and values, one face (`compile/layers/__init__.py`, `Cache`): explicit tensors, and pages.

Each module gives `functions`, what a library exports with that cache, and `describe`, what a runner must know of it.
"""
