"""Cutouts: the views of an image that CLIP is shown at each step.

May import models.requests and models.runtime.
"""
