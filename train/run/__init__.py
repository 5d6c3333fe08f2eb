"""A training at work: the loop, what it computes a step with, and the states that it resumes from."""
