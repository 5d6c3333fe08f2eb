"""The models that training starts from: what they are, how they are opened, and how they are written again."""
