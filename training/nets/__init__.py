"""The training loop, and networks that training alone builds. May import training.data."""
