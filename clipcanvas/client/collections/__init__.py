"""Collections of images on the service: the object, its requests and results.

May import the modules of clipcanvas.client but the
clients.
"""
