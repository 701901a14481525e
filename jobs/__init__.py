"""What the API and the workers agree on: a job's record and states, the queue, and where files are kept."""
