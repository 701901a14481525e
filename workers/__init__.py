"""The GPU side: the worker that draws and the janitor that puts right what others left."""
