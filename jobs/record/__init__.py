"""The job record in Redis and the scripts that alone change it. Imports storage and models.requests."""
