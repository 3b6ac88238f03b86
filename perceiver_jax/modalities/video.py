"""Videos as inputs in space-time patches, and as outputs pixel by pixel."""

import math
from collections.abc import Sequence

import haiku as hk
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from perceiver_jax.arrays import ExampleRngs, Indices, Videos
from perceiver_jax.modalities.base import InputModality
from perceiver_jax.modalities.grid import (
  GridInput,
  GridOutput,
  GridOutputModality,
)
from perceiver_jax.nn import resample
from perceiver_jax.nn.attention import Linear
from perceiver_jax.nn.tokens import Tokens


class VideoInput(GridInput):
  """Videos [B, T, Y, X, C], floating point, as inputs.

  Attributes:
    video_channels: colours of a pixel.
    patch_size: frames, rows and columns of a patch, which is a token; must
      divide the video. (1, 1, 1): every pixel is a token.
    embedding_channels: of a linear projection of the patch; None: not
      projected.
  """

  video_channels: int = 3
  patch_size: tuple[int, int, int] = (2, 8, 8)
  embedding_channels: int | None = None

  num_axes = 3

  @property
  def content_name(self) -> str:
    return 'patches' if self.embedding_channels is None else 'projected patches'

  @property
  def content_channels(self) -> int:
    if self.embedding_channels is not None:
      return self.embedding_channels
    return math.prod(self.patch_size) * self.video_channels

  def example(self) -> jax.ShapeDtypeStruct:
    patches = zip(self.example_grid(), self.patch_size, strict=True)
    size = [count * patch for count, patch in patches]
    shape = (1, *size, self.video_channels)
    return jax.ShapeDtypeStruct(shape, jnp.float32)

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(
      1, 'video_channels', 'patch_size', 'embedding_channels'
    )

  def make(self, name: str) -> 'VideoModality':
    return VideoModality(self, name=name)


class VideoModality(hk.Module):
  """Turns videos into tokens; see `VideoInput`."""

  def __init__(self, config: VideoInput, name: str | None = None):
    super().__init__(name)
    self._config = config

  def __call__(
    self, inputs: Videos, *, is_training: bool, rngs: ExampleRngs | None = None
  ) -> Tokens:
    del is_training, rngs
    config = self._config
    content = resample.space_to_depth(self._checked(inputs), config.patch_size)
    if config.embedding_channels is not None:
      content = Linear(config.embedding_channels, name='embedding')(content)
    return config.place(content)

  def _checked(self, videos: Videos) -> Array:
    channels, patch_size = self._config.video_channels, self._config.patch_size
    if videos.ndim != 5 or videos.shape[-1] != channels:
      raise ValueError(
        f'videos must have shape [B, T, Y, X, {channels}], '
        f'got {list(videos.shape)}.'
      )
    size = videos.shape[1:-1]
    if any(n < 1 or n % p for n, p in zip(size, patch_size, strict=True)):
      raise ValueError(
        'videos must have frames, rows and columns in positive multiples of '
        f'the patch_size {patch_size}, got {size}.'
      )
    if not jnp.issubdtype(videos.dtype, jnp.floating):
      raise TypeError(
        f'videos must be floating point and normalised, got {videos.dtype}.'
      )
    return jnp.asarray(videos)


class VideoOutput(GridOutput):
  """Videos [B, T, Y, X, C] as outputs; with raw queries [B, O, C].

  Attributes:
    size: frames, rows and columns.
    video_channels: colours of a pixel.
  """

  size: tuple[int, int, int]
  video_channels: int = 3

  num_axes = 3

  @property
  def grid(self) -> tuple[int, ...]:
    return self.size

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'video_channels')

  def make(self, name: str, inputs: InputModality) -> 'VideoOutputModality':
    del inputs
    return VideoOutputModality(self, name=name)


class VideoOutputModality(GridOutputModality):
  """Makes queries for pixels of a video, and the pixels; see `VideoOutput`."""

  @hk.name_like('__call__')
  def head(self, decoded: Float[Array, 'B O E']) -> Float[Array, 'B O C']:
    return Linear(self._config.video_channels, name='pixels')(decoded)

  def arrange(
    self, made: Sequence[Float[Array, 'B O C']], raw_queries: Indices | None
  ) -> Float[Array, 'B ...']:
    config = self._config
    (pixels,) = made
    if raw_queries is not None:
      return pixels
    return pixels.reshape(-1, *config.size, config.video_channels)
