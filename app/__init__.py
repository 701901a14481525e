"""The HTTP API: CLIP answered at once, drawings and index jobs queued.

May import jobs, storage and models.
"""
