"""What the command line shows: text, progress and images. Imports clipcanvas.client.results only."""
