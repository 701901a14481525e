"""What generators share that sample an image in place of optimizing it.

May import models.optimize and what that may import.
"""
