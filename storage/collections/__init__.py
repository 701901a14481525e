"""Collections of images as vector sets of Redis, their fields and thumbnails. Imports storage.redis."""
