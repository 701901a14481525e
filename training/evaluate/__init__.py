"""Measures of a CLIP or a VQGAN on a folder of images. May import training.data and training.nets."""
