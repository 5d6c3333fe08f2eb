"""Chat: the template that a model brings, rendered where it can do no harm, and made into tokens."""
