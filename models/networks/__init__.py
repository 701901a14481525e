"""Networks that generators draw with, without CLIP.

May import models.clip, models.requests, models.runtime and models.weights_io.
"""
