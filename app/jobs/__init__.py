"""Jobs over HTTP: drawings and index jobs, submitted, followed and deleted.

May import app.collections, app.clip and app.http.
"""
