"""The values of a drawing: request, options, prompts, presets, checkpoint; and the interface of generators.

Imports nothing else of models.
"""
