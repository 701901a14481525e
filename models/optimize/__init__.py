"""The optimization loop of drawings that CLIP guides, and its losses.

May import models.cutouts, models.networks, models.clip, models.requests and models.runtime.
"""
