"""Bytes of requests to checked values, and values to bytes of answers.

Knows no CLIP and no job; of app it may import settings and metrics.
"""
