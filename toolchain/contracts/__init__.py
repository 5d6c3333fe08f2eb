"""What the stages agree on: artifacts, FIM, architectures, targets, weights and libraries on disk, settings, errors.

Everything here imports only the standard library, pydantic, filelock and platformdirs, and `tokenizer.py` the library
tokenizers once it opens one, so any stage can be used alone.
"""
