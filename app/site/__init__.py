"""What describes the service: health, OpenAPI with its page, and the page in the browser.

May import every other room of app but compat.
"""
