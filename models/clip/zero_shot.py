"""From embeddings to answers: cosine similarity, the model's probabilities, prompt ensembling. Only numpy.

Zero-shot classification and prompt ensembling are section 3.1 of Radford et al. 2021 (arXiv:2103.00020); the
sigmoid rule is section 3.2 of Zhai et al. 2023 (arXiv:2303.15343).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.clip import Embeddings

LABEL = "{label}"
"""Where a template takes the label."""


def fill_templates(labels: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every label in every template, label by label: L labels and T templates give L * T texts.

    Only `{label}` is replaced, so other braces, in a label or a template, stay as they are.
    """
    return [template.replace(LABEL, label) for label in labels for template in templates]


def ensemble(embeddings: Embeddings, templates: int) -> Embeddings:
    """One embedding per label out of one per label and template: the mean, brought back to unit length.

    Args:
        embeddings: (L * templates, D) of unit length, in the order of `fill_templates`.

    Returns:
        (L, D)
    """
    means = embeddings.reshape(-1, templates, embeddings.shape[-1]).mean(axis=1, dtype=np.float64)
    lengths = np.linalg.norm(means, axis=-1, keepdims=True)
    unit: Embeddings = (means / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
    return unit


def similarity(a: Embeddings, b: Embeddings) -> NDArray[np.float32]:
    """Cosines of unit vectors: (N, D), (M, D) -> (N, M) in [-1, 1]"""
    cosines: NDArray[np.float32] = np.clip(a @ b.T, -1, 1, dtype=np.float32)
    return cosines


def probabilities(
    similarities: NDArray[np.float32], logit_scale: float, logit_bias: float | None = None
) -> NDArray[np.float32]:
    """The model's own rule for how likely each label is: (N, L) -> (N, L) in [0, 1]

    Without a bias the labels compete (softmax, CLIP) and each row sums to 1; with one each label stands for
    itself (sigmoid, SigLIP).

    Args:
        similarities: cosines.
        logit_scale: already exponentiated.
    """
    logits = similarities.astype(np.float64) * logit_scale
    if logit_bias is None:
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        result = weights / weights.sum(axis=-1, keepdims=True)
    else:
        result = np.exp(-np.logaddexp(0, -(logits + logit_bias)))  # a sigmoid that does not overflow
    rounded: NDArray[np.float32] = result.astype(np.float32)
    return rounded
