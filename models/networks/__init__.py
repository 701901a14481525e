"""Networks that generators draw with, without CLIP.

May import models.weights_io, models.runtime and models.requests.
"""
