"""Redis connections, blobs, vector sets and outgoing HTTP. Imports nothing of ours."""
