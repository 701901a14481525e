"""What describes the service: health, OpenAPI, its docs, and the page.

May import every other room of app.
"""
