"""Collections of images in the client. May import all of clipcanvas.client but batches and the clients."""
