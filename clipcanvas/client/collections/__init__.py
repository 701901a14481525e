"""Collections of images on the service: the object, its requests and results.

May import every module of clipcanvas.client but batches and the clients.
"""
