"""What the scripts share: the training loop, and networks that training alone builds. Imports training.data."""
