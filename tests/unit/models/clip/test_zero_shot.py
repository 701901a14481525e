"""Zero-shot answers follow the formulas of CLIP and SigLIP, for any numbers."""

import numpy as np
import pytest

from models.clip.zero_shot import ensemble, fill_templates, probabilities, similarity


def test_templates_are_filled_label_by_label() -> None:
    texts = fill_templates(["cat", "dog"], ["a {label}", "{label} icon"])
    assert texts == ["a cat", "cat icon", "a dog", "dog icon"]


def test_braces_in_labels_and_templates_are_plain_text() -> None:
    assert fill_templates(["{0.__class__}"], ["{x} {label} {}"]) == ["{x} {0.__class__} {}"]


def test_an_ensemble_is_the_mean_direction_of_unit_length() -> None:
    two = np.array([[1, 0], [0, 1], [0, 1], [0, 1]], np.float32)
    expected = np.array([[0.5**0.5, 0.5**0.5], [0, 1]], np.float32)
    np.testing.assert_allclose(expected, ensemble(two, 2), atol=1e-7)


def test_one_template_changes_nothing() -> None:
    unit = np.array([[0.6, 0.8]], np.float32)
    np.testing.assert_allclose(unit, ensemble(unit, 1), atol=1e-7)


def test_opposite_templates_give_zeros_rather_than_nan() -> None:
    assert np.all(ensemble(np.array([[1, 0], [-1, 0]], np.float32), 2) == 0)


def test_similarity_is_the_cosine_and_never_beyond_one() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 640)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = similarity(vectors, vectors)
    assert cosines.shape == (50, 50)
    assert cosines.dtype == np.float32
    np.testing.assert_allclose(np.ones(50), np.diag(cosines), atol=1e-6)
    assert np.abs(cosines).max() <= 1


def test_without_a_bias_labels_compete_by_softmax() -> None:
    result = probabilities(np.array([[0.3, 0.2], [0.1, 0.1]], np.float32), 100.0)
    expected = 1 / (1 + np.exp(-10))
    np.testing.assert_allclose([[expected, 1 - expected], [0.5, 0.5]], result, rtol=1e-4)
    np.testing.assert_allclose([1, 1], result.sum(axis=1), rtol=1e-6)


def test_with_a_bias_each_label_stands_for_itself_by_sigmoid() -> None:
    result = probabilities(np.array([[0.1, 0.0]], np.float32), 100.0, -10.0)
    np.testing.assert_allclose([[0.5, 1 / (1 + np.exp(10))]], result, rtol=1e-4)


@pytest.mark.parametrize("bias", [None, -16.5])
@pytest.mark.filterwarnings("error")
def test_extreme_scales_give_probabilities_and_no_warning(bias: float | None) -> None:
    result = probabilities(np.array([[1, -1, 0]], np.float32), 1e5, bias)
    assert np.all((result >= 0) & (result <= 1))
    np.testing.assert_allclose(1, result[0, 0])
