"""CLIP answered at once: models that are served, batching, `/v1/classify`, `/v1/embeddings` and `/v1/rank`.

May import app.http and app.dependencies.
"""
