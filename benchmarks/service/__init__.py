"""What the queue, the workers and the collections cost."""
