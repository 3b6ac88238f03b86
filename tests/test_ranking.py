"""Mean average precision and its like, against scikit-learn and by hand."""

import warnings

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics

from perceiver_jax.tasks.ranking import rank_classes, ranking_metrics


def _scores(num_examples, num_classes, num_levels, seed=0):
  """Returns scores, many of them equal if there are few levels, and labels."""
  rng = np.random.default_rng(seed)
  levels = rng.integers(num_levels, size=(num_examples, num_classes))
  labels = rng.random((num_examples, num_classes)) < 0.3
  labels[0], labels[1] = True, False  # Every class comes, none always.
  return (levels / num_levels).astype(np.float32), labels


def test_average_precision_is_what_it_is_by_hand():
  scores = np.array([[0.9], [0.8], [0.8], [0.4], [0.1]])
  labels = np.array([[True], [False], [True], [False], [True]])
  # The two of 0.8 come together: 1/1, then 2 of 3, and at the end 3 of 5.
  expected = (1 / 1 + 2 / 3 + 3 / 5) / 3
  ranking = rank_classes(scores, labels)
  np.testing.assert_allclose(ranking.average_precision, [expected])
  # Of the six pairs two are right, one is a tie and so is half right: 0.9 is
  # above both negatives, 0.8 ties one and is above the other, 0.1 below both.
  np.testing.assert_allclose(ranking.auc, [(2 + 1.5 + 0) / 6])
  np.testing.assert_array_equal(ranking.num_positives, [3])


@pytest.mark.parametrize('num_levels', [3, 20, 10**6])
def test_means_are_those_of_scikit_learn_with_and_without_ties(num_levels):
  scores, labels = _scores(211, 17, num_levels)
  found = ranking_metrics(scores, labels)
  expected = metrics.average_precision_score(labels, scores, average='macro')
  np.testing.assert_allclose(
    found['mean_average_precision'], expected, atol=1e-6
  )
  auc = metrics.roc_auc_score(labels, scores, average='macro')
  np.testing.assert_allclose(found['mean_auc'], auc, atol=1e-6)
  np.testing.assert_allclose(
    found['d_prime'], np.sqrt(2) * scipy.stats.norm.ppf(auc), atol=1e-6
  )
  assert found['classes_without_positives'] == 0


def test_classes_are_columns_and_examples_are_rows():
  # The first version of the paper had them the other way round.
  scores, labels = _scores(60, 7, 1000)
  found = ranking_metrics(scores, labels)['mean_average_precision']
  columns = [
    metrics.average_precision_score(labels[:, index], scores[:, index])
    for index in range(7)
  ]
  assert len(rank_classes(scores, labels).auc) == 7
  np.testing.assert_allclose(found, np.mean(columns), atol=1e-6)
  with warnings.catch_warnings(action='ignore'):
    transposed = metrics.average_precision_score(labels.T, scores.T)
  assert abs(found - transposed) > 1e-2


def test_classes_that_no_example_has_are_left_out_and_counted():
  scores, labels = _scores(50, 6, 1000)
  some = ranking_metrics(scores[:, :4], labels[:, :4])
  labels[:, 4:] = False
  found = ranking_metrics(scores, labels)
  assert found.pop('classes_without_positives') == 2
  for name, value in found.items():
    np.testing.assert_allclose(value, some[name], atol=1e-12)
  ranking = rank_classes(scores, labels)
  np.testing.assert_array_equal(
    np.isnan(ranking.average_precision), [False] * 4 + [True] * 2
  )


def test_class_that_all_examples_have_counts_in_precision_only():
  scores, labels = _scores(50, 3, 1000)
  some = ranking_metrics(scores[:, :2], labels[:, :2])
  labels[:, 2] = True
  found = ranking_metrics(scores, labels)
  assert found['mean_auc'] == some['mean_auc']
  expected = (2 * some['mean_average_precision'] + 1) / 3
  np.testing.assert_allclose(found['mean_average_precision'], expected)


def test_model_that_diverged_has_no_metrics():
  scores, labels = _scores(20, 3, 1000)
  scores[4, 1] = np.nan
  found = ranking_metrics(scores, labels)
  assert found.pop('classes_without_positives') == 0
  assert all(np.isnan(value) for value in found.values())


def test_split_without_any_positive_has_no_metrics():
  found = ranking_metrics(np.zeros((4, 3)), np.zeros((4, 3), bool))
  assert found.pop('classes_without_positives') == 3
  assert len(found) == 3
  assert all(np.isnan(value) for value in found.values())


@pytest.mark.parametrize(('sign', 'd_prime'), [(1, np.inf), (-1, -np.inf)])
def test_perfect_ranks_have_an_infinite_d_prime(sign, d_prime):
  scores = sign * np.arange(4.0)[:, None]
  labels = np.array([[False], [False], [True], [True]])
  assert ranking_metrics(scores, labels)['d_prime'] == d_prime
