"""Index jobs: images of a source go into a collection. May import workers.runner."""
