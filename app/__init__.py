"""The HTTP front: CLIP answered at once, drawings as jobs."""
