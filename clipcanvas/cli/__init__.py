"""The command line `clipcanvas`. May import clipcanvas.client and clipcanvas.launcher."""
