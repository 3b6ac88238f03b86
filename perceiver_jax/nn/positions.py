"""Position features: Fourier features of coordinates, and learned tables.

On a grid, coordinates and sines are computed in float64 by NumPy and cast last,
because their arguments reach thousands of radians: float32 loses up to 1e-2 of
a feature and bfloat16 destroys it. Coordinates that are data have their sines
computed on device, in float32 and with exact products.
"""

import enum
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from perceiver_jax.arrays import AnyArray


class GridSpan(enum.Enum):
  """Where the coordinates of a grid end; the published models have both.

  Attributes:
    INCLUSIVE: from -1 to 1, both included: tokens, and queries of all outputs.
    EXCLUSIVE: -1 + 2 i / size, so that 1 is left out: queries of outputs that
      are chosen by their indices.
  """

  INCLUSIVE = enum.auto()
  EXCLUSIVE = enum.auto()


def grid_coordinates(
  size: int, span: GridSpan = GridSpan.INCLUSIVE
) -> Float[np.ndarray, ' size']:
  """Returns `size` coordinates from -1 to 1; float64.

  Source: the encoders and decoders of the published models. A single element
  is at -1.
  """
  return np.linspace(-1.0, 1.0, size, endpoint=span is GridSpan.INCLUSIVE)


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


def fourier_note(num_axes: int, axes: str, num_bands: int) -> str:
  """Returns how many Fourier features there are, and why."""
  count = num_axes * (2 * num_bands + 1)
  return f'{num_axes} {axes} x (2 x {num_bands} bands + 1) = {count}'


def fourier_features_of_data(
  coordinates: Float[AnyArray, '*points d'],
  num_bands: int,
  max_frequency: float,
) -> Float[Array, '*points F']:
  """Computes Fourier features of coordinates that are known at run time only.

  A float32 product f x has an error of up to f / 2**24 periods, 4e-4 radians
  at a frequency f of 1,120. So f is split into a whole number and the rest, x
  into halves of 12 bits; the product of the first parts is exact, and loses
  its whole periods before the rest is added. The features are right to about
  1e-6 for frequencies up to 4,096.

  Args:
    coordinates: x, in [-1, 1]; made float32.
    num_bands: number K of frequencies, spaced linearly from 1.
    max_frequency: the highest one.

  Returns:
    float32 features in the order of `FourierFeatures`; differentiable.
  """
  bands = np.linspace(1.0, max_frequency, num_bands)
  bands_high = np.round(bands).astype(np.float32)
  bands_low = (bands - bands_high).astype(np.float32)
  x = coordinates.astype(jnp.float32)[..., None]
  high = jax.lax.reduce_precision(
    jax.lax.stop_gradient(x), exponent_bits=8, mantissa_bits=11
  )
  # One period of sin(pi t) is 2.
  turns = bands_high * high
  turns = turns - 2.0 * jax.lax.stop_gradient(jnp.round(turns / 2.0))
  angles = jnp.pi * (turns + (bands_high * (x - high) + bands_low * x))
  angles = angles.reshape(*coordinates.shape[:-1], -1)
  parts = (x[..., 0], jnp.sin(angles), jnp.cos(angles))
  return jnp.concatenate(parts, axis=-1)


def learned_positions(
  num_positions: int, num_channels: int, init_scale: float, name: str
) -> Float[AnyArray, 'M F']:
  """Returns a table of learned features, one row a position.

  Args:
    num_positions: rows of the table.
    num_channels: channels of a row.
    init_scale: standard deviation of the truncated normal it starts from.
    name: of the parameter, in the current Haiku module.
  """
  init = hk.initializers.TruncatedNormal(init_scale)
  return hk.get_parameter(name, [num_positions, num_channels], init=init)
