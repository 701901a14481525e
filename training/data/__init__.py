"""Images, captions, names and batches that the networks learn from. Imports no other room of training."""
