"""What the stages agree on: artifacts, FIM, architectures, targets, settings, progress and errors.

Everything here imports only the standard library, pydantic, filelock and platformdirs, so any stage can be used alone.
"""
