"""Clouds of points as inputs: Fourier features of measured coordinates."""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
from jaxtyping import Float

from perceiver_jax.arrays import AnyArray, ExampleRngs
from perceiver_jax.modalities.base import InputConfig, check_set
from perceiver_jax.nn.positions import fourier_features_of_data, fourier_note
from perceiver_jax.nn.tokens import Tokens


class PointsInput(InputConfig):
  """Points [B, M, 3 + F] as inputs: coordinates in [-1, 1], then features.

  Coordinates are data, so their Fourier features are computed on device, in
  float32 at any precision of the model. Clouds of different sizes are padded
  with any finite numbers and told apart by `input_mask`.

  Attributes:
    num_coordinates: of a point.
    num_features: number F of further channels of a point, such as colours.
    num_bands: number K of frequencies of each coordinate, from 1 to
      `max_frequency`.
    max_frequency: the highest one, in half periods per unit. Of points that
      lie h apart, 1/h is the Nyquist frequency.
  """

  num_coordinates: int = 3
  num_features: int = 0
  num_bands: int = 64
  max_frequency: float = 1120.0

  @property
  def channel_sources(self) -> dict[str, int]:
    features = {'features': self.num_features} if self.num_features else {}
    fourier = self.num_coordinates * (2 * self.num_bands + 1)
    return features | {'Fourier features': fourier}

  @property
  def positions_note(self) -> str:
    return fourier_note(self.num_coordinates, 'coordinates', self.num_bands)

  def example(self) -> jax.ShapeDtypeStruct:
    shape = (1, 1, self.num_coordinates + self.num_features)
    return jax.ShapeDtypeStruct(shape, jnp.float32)

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'num_coordinates', 'num_bands', 'max_frequency')
    self._validate_at_least(0, 'num_features')

  def cast(self, inputs: Any, dtype: jnp.dtype) -> Any:
    del dtype
    return inputs

  def make(self, name: str) -> 'PointsModality':
    return PointsModality(self, name=name)


class PointsModality(hk.Module):
  """Turns points into tokens; see `PointsInput`."""

  def __init__(self, config: PointsInput, name: str | None = None):
    super().__init__(name)
    self._config = config

  def __call__(
    self,
    inputs: Float[AnyArray, 'B M K'],
    *,
    is_training: bool,
    rngs: ExampleRngs | None = None,
  ) -> Tokens:
    del is_training, rngs
    config = self._config
    channels = config.num_coordinates + config.num_features
    points = check_set('points', inputs, channels)
    coordinates, features = jnp.split(points, [config.num_coordinates], axis=-1)
    positions = fourier_features_of_data(
      coordinates, config.num_bands, config.max_frequency
    )
    return Tokens(jnp.concatenate([features, positions], axis=-1))
