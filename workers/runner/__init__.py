"""What runs jobs of any type: RQ, lease, heartbeat, concurrency. Knows neither drawing nor indexing."""
