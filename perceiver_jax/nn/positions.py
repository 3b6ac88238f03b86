"""Position features: Fourier features of coordinates, and learned tables.

Coordinates and sines are computed in float64 by NumPy and cast last, because
their arguments reach thousands of radians: float32 loses up to 1e-2 of a
feature and bfloat16 destroys it.
"""

from typing import NamedTuple

import haiku as hk
import numpy as np
from jaxtyping import Array, Float


def grid_coordinates(size: int) -> Float[np.ndarray, ' size']:
  """Returns `size` coordinates from -1 to 1, both included; float64.

  Source: the encoders of the published models. A single element is at -1.
  """
  return np.linspace(-1.0, 1.0, size)


class FourierFeatures(NamedTuple):
  """The three parts of Fourier features, along a last axis of channels."""

  coordinates: Float[np.ndarray, '*points d']
  sines: Float[np.ndarray, '*points dK']
  cosines: Float[np.ndarray, '*points dK']

  def concatenated(self) -> Float[np.ndarray, '*points F']:
    """Returns all features in the order of the published models."""
    return np.concatenate(self, axis=-1)


def fourier_features(
  coordinates: Float[np.ndarray, '*points d'],
  num_bands: int,
  max_resolution: tuple[float, ...],
) -> FourierFeatures:
  """Computes sin and cos of pi f x for `num_bands` frequencies f per axis.

  Args:
    coordinates: x, in [-1, 1], float64.
    num_bands: number K of frequencies along each axis, spaced linearly.
    max_resolution: for each axis, twice its highest frequency; the lowest is 1.
      The number of elements along the axis makes it the Nyquist frequency.

  Returns:
    float64 features; sines and cosines run over bands within axes.

  Source: arXiv 2103.03206, section 3.2 and appendix D.
  """
  bands = np.stack([np.linspace(1.0, r / 2, num_bands) for r in max_resolution])
  angles = np.pi * coordinates[..., None] * bands
  angles = angles.reshape(*coordinates.shape[:-1], -1)
  return FourierFeatures(coordinates, np.sin(angles), np.cos(angles))


def learned_positions(
  num_positions: int, num_channels: int, init_scale: float, name: str
) -> Float[Array, 'M F']:
  """Returns a table of learned features, one row a position.

  Args:
    num_positions: rows of the table.
    num_channels: channels of a row.
    init_scale: standard deviation of the truncated normal it starts from.
    name: of the parameter, in the current Haiku module.
  """
  init = hk.initializers.TruncatedNormal(init_scale)
  return hk.get_parameter(name, [num_positions, num_channels], init=init)
