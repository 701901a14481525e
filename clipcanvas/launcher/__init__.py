"""The whole service as child processes of one machine. May import clipcanvas.client."""
