"""Drawing jobs: from a request to images in the store. May import workers.runner."""
