"""What the scripts share: the training loop, and networks that only training builds. Imports training.data."""
