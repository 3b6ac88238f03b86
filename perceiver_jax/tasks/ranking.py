"""How well scores rank examples, class by class."""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer


class ClassRanking(NamedTuple):
  """How well the scores of each class put its examples before the others.

  Attributes:
    num_positives: examples that have the class.
    average_precision: not interpolated, as scikit-learn computes it, equal
      scores together; NaN for a class that no example has (scikit-learn says
      0, which would count as a mistake of the model).
    auc: area under the ROC curve: how often a positive is scored above a
      negative, equal scores counting half; NaN for a class that no example has,
      or all.
  """

  num_positives: Integer[np.ndarray, ' V']
  average_precision: Float[np.ndarray, ' V']
  auc: Float[np.ndarray, ' V']


def rank_classes(
  scores: Float[np.ndarray, 'N V'], labels: Bool[np.ndarray, 'N V']
) -> ClassRanking:
  """Ranks the examples of every class; where a score is NaN, so is all of it.

  Args:
    scores: one row an example, one column a class; higher is more likely.
    labels: which classes an example has.
  """
  # Imported here because it takes seconds, and only an evaluation needs it.
  from sklearn import metrics

  num_positives = labels.sum(axis=0)
  is_number = ~np.isnan(scores).any(axis=0)
  ranking = ClassRanking(
    num_positives,
    np.full(num_positives.shape, np.nan),
    np.full(num_positives.shape, np.nan),
  )
  for index in np.flatnonzero((num_positives > 0) & is_number):
    of_class = labels[:, index], scores[:, index]
    ranking.average_precision[index] = metrics.average_precision_score(
      *of_class
    )
    if num_positives[index] < len(labels):
      ranking.auc[index] = metrics.roc_auc_score(*of_class)
  return ranking


def ranking_metrics(
  scores: Float[np.ndarray, 'N V'], labels: Bool[np.ndarray, 'N V']
) -> dict[str, float]:
  """Returns means over classes, those that cannot be ranked left out.

  `mean_average_precision` is the macro average, `mean_auc` that of the areas
  under the ROC curves, and `d_prime` what two normal distributions of variance
  1 would have to lie apart for this mean area: sqrt(2) times its probit. (Some
  average the d' of the classes instead.) `classes_without_positives` are left
  out of all three. A model whose scores are not numbers has no metrics.

  Args:
    scores: one row an example, one column a class.
    labels: which classes an example has.

  Source: d': Hershey et al., arXiv 1609.09430; of the mean area as in Kong et
  al., arXiv 1912.10211 (PANNs).
  """
  ranking = rank_classes(scores, labels)
  is_known = ranking.num_positives > 0
  has_both = is_known & (ranking.num_positives < len(labels))
  auc = _mean(ranking.auc[has_both])
  return {
    'mean_average_precision': _mean(ranking.average_precision[is_known]),
    'mean_auc': auc,
    'd_prime': _d_prime(auc),
    'classes_without_positives': float(np.sum(~is_known)),
  }


def _mean(values: Float[np.ndarray, ' known']) -> float:
  return float(values.mean()) if len(values) else math.nan


def _d_prime(auc: float) -> float:
  if not 0.0 < auc < 1.0:  # A probit exists inside only.
    return {0.0: -math.inf, 1.0: math.inf}.get(auc, math.nan)
  return math.sqrt(2.0) * NormalDist().inv_cdf(auc)
