"""How the demo models are made and measured: one script per network, from packages by name."""
