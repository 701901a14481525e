"""The whole service as child processes on one machine. May import clipcanvas.client."""
