"""The command line. May import clipcanvas.client and clipcanvas.launcher."""
