"""How tensors run on a device: batched steps, compiled parts, CUDA graphs.

Imports nothing else of models.
"""
