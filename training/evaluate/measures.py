"""What evaluations count: ranks of right answers, errors of reconstructions, use of a codebook."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Row = tuple[str, str]  # what is measured, and its value


def accuracy(scores: Floats, right: Ints, best: int = 1) -> float:
    """How often the right column is among the `best` highest of its row: (N, L) and (N,) -> 0 to 1"""
    own = np.take_along_axis(scores, right[:, None], 1)
    return float(((scores > own).sum(1) < best).mean())


def recall(scores: Floats, labels: Ints, best: int = 1) -> float:
    """How often one of a query's own is among its `best` pictures: (Q, N), their labels (N,) -> 0 to 1"""
    first = np.argsort(-scores, 1, kind="stable")[:, :best]
    return float((labels[first] == np.arange(len(scores))[:, None]).any(1).mean())


def psnr(made: Floats, real: Floats) -> float:
    """Peak signal-to-noise ratio in dB, the mean of pictures': (N, H, W, 3) in [0, 1], twice"""
    errors = np.square(made.astype(np.float64) - real).reshape(len(made), -1).mean(1)
    return float((-10 * np.log10(errors.clip(1e-10))).mean())


def perplexity(codes: Ints) -> float:
    """How many codes would carry as much, were all used alike (the exponential of the entropy)."""
    counts = np.bincount(codes.ravel())
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def table(rows: Sequence[Row]) -> str:
    """Names and values, aligned."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value:>8}" for name, value in rows)
