"""Request shapes of other APIs: OpenAI's images, Weaviate's and Immich's CLIP.

May import app.jobs, app.clip and app.http.
"""
