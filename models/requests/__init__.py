"""The values of a drawing: request, options, prompts, presets, checkpoint; and the interface of generators.

May import models.clip's cards and models.weights_io.
"""
