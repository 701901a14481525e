"""The numbers: networks, losses and loops. Knows no HTTP, no Redis and no settings."""
