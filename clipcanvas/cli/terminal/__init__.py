"""Text, progress and images on a terminal. May import clipcanvas.client and clipcanvas.cli.catalog."""
