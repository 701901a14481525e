"""How tensors run on a device: batched steps, compiled parts, CUDA graphs.

May import models.weights_io.
"""
