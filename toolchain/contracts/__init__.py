"""What the stages agree on: artifacts, FIM, chats, architectures, targets, weights, libraries, settings, errors.

Everything here imports only the standard library, pydantic, filelock and platformdirs, `tokenizer.py` the library
tokenizers once it opens one, and `chat/sandbox.py`, in a process of its own, Jinja, so any stage can be used alone.
"""
