"""What generators share that sample an image in place of optimizing it.

May import models.networks, models.clip, models.requests and models.runtime.
"""
