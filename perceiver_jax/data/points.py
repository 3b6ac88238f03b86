"""Clouds of points with labels, scaled as the paper does."""

from typing import Any

import numpy as np
from jaxtyping import Float

from perceiver_jax.data.labelled import LabelledData
from perceiver_jax.data.unreadable import UnreadableError


class PointsData(LabelledData):
  """Clouds of as many points each, in a cube.

  The cloud is centred on the mean of its points, wherever its file has it. In
  training each point is then moved away from there, or towards it, by a factor
  of its own. At last the cloud is centred again and scaled by one factor so
  that it just fits the cube [-1, 1]^3.

  Examples are `{'points': float32 [M, 3], 'label': int32 []}`.

  Source: arXiv 2103.03206, section 4.3.

  Attributes:
    scale_range: least and most of the factors of points, drawn evenly.
  """

  scale_range: tuple[float, float] = (0.99, 1.01)

  def validate(self) -> None:
    super().validate()
    least, most = self.scale_range
    if not 0.0 < least <= most:
      raise ValueError(
        'scale_range must be two positive numbers, the smaller first, got '
        f'{self.scale_range}.'
      )

  def preprocess(
    self, example: dict[str, Any], rng: np.random.Generator | None
  ) -> dict[str, np.ndarray]:
    points = centred(example['points'])
    if rng is not None:
      factors = rng.uniform(*self.scale_range, size=(len(points), 1))
      points = points * factors.astype(points.dtype)
    label = np.asarray(example['label'], np.int32)
    return {'points': in_cube(points), 'label': label}


def centred(points: Float[np.ndarray, 'M 3']) -> Float[np.ndarray, 'M 3']:
  """Returns points with mean 0."""
  return points - points.mean(axis=0)


def in_cube(
  points: Float[np.ndarray, 'M 3'],
) -> Float[np.ndarray, 'M 3']:
  """Returns points with mean 0 whose largest coordinate is 1 or -1.

  Raises:
    UnreadableError: they are not finite, or all in one place.
  """
  points = centred(points)
  extent = np.abs(points).max()
  if not 0.0 < extent < np.inf:
    raise UnreadableError(
      'points must be finite and not all in one place, got an extent of '
      f'{extent}.'
    )
  return points / extent
