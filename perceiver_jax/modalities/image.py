"""Images as inputs: how pixels become tokens, and where a token is."""

import dataclasses
import enum
import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from perceiver_jax.arrays import DEVICE_AXIS, Images
from perceiver_jax.config import Config
from perceiver_jax.modalities.base import InputConfig
from perceiver_jax.nn import positions, resample
from perceiver_jax.nn.tokens import AxisFeatures, Tokens


class PixelEmbedding(Config):
  """Every pixel is a token, its colours as they are."""

  keeps_pixels = True
  stride = (1, 1)

  def num_channels(self, image_channels: int) -> int:
    return image_channels

  def __call__(self, images: Array, *, is_training: bool) -> Array:
    del is_training
    return images


class Conv1x1Embedding(Config):
  """Every pixel is a token, its colours projected by a 1x1 convolution.

  Attributes:
    channels: of the projection.
  """

  channels: int = 256

  keeps_pixels = True
  stride = (1, 1)

  def num_channels(self, image_channels: int) -> int:
    del image_channels
    return self.channels

  def __call__(self, images: Array, *, is_training: bool) -> Array:
    del is_training
    return hk.Linear(self.channels, name='embedding')(images)


class PatchEmbedding(Config):
  """Every non-overlapping patch is a token (space to depth).

  Attributes:
    patch_size: rows and columns of a patch; must divide the image.
    channels: of a linear projection of the patch; None: not projected.
  """

  patch_size: tuple[int, int] = (4, 4)
  channels: int | None = None

  keeps_pixels = False

  @property
  def stride(self) -> tuple[int, int]:
    return self.patch_size

  def num_channels(self, image_channels: int) -> int:
    return self.channels or math.prod(self.patch_size) * image_channels

  def __call__(self, images: Array, *, is_training: bool) -> Array:
    del is_training
    patches = resample.space_to_depth(images, self.patch_size)
    if self.channels is None:
      return patches
    return hk.Linear(self.channels, name='embedding')(patches)


class ConvEmbedding(Config):
  """A convolutional stem: tokens on a grid of a quarter of the image's size.

  Attributes:
    channels: of the convolution.
    sync_batch_norm: average batch statistics over all devices of the pmap
      axis 'devices' instead of each on its own.
  """

  channels: int = 64
  sync_batch_norm: bool = False

  keeps_pixels = False
  stride = (4, 4)

  def num_channels(self, image_channels: int) -> int:
    del image_channels
    return self.channels

  def __call__(self, images: Array, *, is_training: bool) -> Array:
    axis = DEVICE_AXIS if self.sync_batch_norm else None
    stem = resample.ConvStem(self.channels, axis, name='stem')
    return stem(images, is_training=is_training)


ImageEmbedding = (
  PixelEmbedding | Conv1x1Embedding | PatchEmbedding | ConvEmbedding
)


class FourierPositions(Config):
  """Fourier features of the position on the grid; the grid may have any size.

  Attributes:
    num_bands: number K of frequencies along each axis.
    max_resolution: for each axis, twice its highest frequency. None: the size
      of the grid at hand, so that it is the Nyquist frequency.
  """

  num_bands: int = 64
  max_resolution: tuple[float, float] | None = None

  @property
  def num_channels(self) -> int:
    return 2 * (2 * self.num_bands + 1)

  def __call__(self, axes: tuple[int, ...]) -> tuple[AxisFeatures, ...]:
    resolution = self.max_resolution or axes
    parts = [
      positions.fourier_features(
        positions.grid_coordinates(size)[:, None], self.num_bands, (highest,)
      )
      for size, highest in zip(axes, resolution, strict=True)
    ]
    # The published order: all coordinates, then all sines, then all cosines.
    return tuple(
      AxisFeatures(part[kind].astype(np.float32), axis)
      for kind in range(3)
      for axis, part in enumerate(parts)
    )


class LearnedPositions(Config):
  """A learned table with a row for each token of a grid of one fixed size.

  Attributes:
    grid: rows and columns of tokens.
    num_channels: channels of a row.
    init_scale: standard deviation of the truncated normal it starts from.
  """

  grid: tuple[int, int] = (224, 224)
  num_channels: int = 256
  init_scale: float = 0.02

  def __call__(self, axes: tuple[int, ...]) -> tuple[Array]:
    if tuple(axes) != self.grid:
      raise ValueError(
        f'the grid of tokens must be {self.grid}, the grid of the learned '
        f'positions, got {tuple(axes)}.'
      )
    table = positions.learned_positions(
      math.prod(axes), self.num_channels, self.init_scale, 'positions'
    )
    return (table,)


class Combine(enum.Enum):
  """How position features join the content of a token."""

  CONCATENATE = enum.auto()
  ADD = enum.auto()


class ImageInput(InputConfig):
  """Images [B, Y, X, C], floating point, as inputs.

  Attributes:
    image_channels: colours of a pixel.
    embedding: how pixels become the content of tokens.
    positions: position features; None: the tokens are an unordered set.
    position_projection: channels to project the position features to by a
      learned linear layer; None: not projected.
    combine: whether positions are concatenated to the content or added to it;
      adding needs as many channels.
    permutation_seed: a fixed random order of pixels, the same for every image
      (arXiv 2103.03206, table 2). Embeddings that look at single pixels are
      permuted together with their positions; those that look at neighbourhoods
      get an image whose neighbourhoods are destroyed. None: not permuted.
  """

  image_channels: int = 3
  embedding: ImageEmbedding = dataclasses.field(default_factory=PixelEmbedding)
  positions: FourierPositions | LearnedPositions | None = dataclasses.field(
    default_factory=FourierPositions
  )
  position_projection: int | None = None
  combine: Combine = Combine.CONCATENATE
  permutation_seed: int | None = None

  @property
  def num_channels(self) -> int:
    content = self.embedding.num_channels(self.image_channels)
    if self.combine is Combine.ADD:
      return content
    return content + self.num_position_channels

  @property
  def num_position_channels(self) -> int:
    """Channels of the position features, projected if they are."""
    if self.positions is None:
      return 0
    return self.position_projection or self.positions.num_channels

  @property
  def has_state(self) -> bool:
    return isinstance(self.embedding, ConvEmbedding)

  def example(self) -> jax.ShapeDtypeStruct:
    learned = isinstance(self.positions, LearnedPositions)
    grid = self.positions.grid if learned else (1, 1)
    size = [n * s for n, s in zip(grid, self.embedding.stride, strict=True)]
    shape = (1, *size, self.image_channels)
    return jax.ShapeDtypeStruct(shape, jnp.float32)

  def validate(self) -> None:
    super().validate()
    content = self.embedding.num_channels(self.image_channels)
    position = self.num_position_channels
    if self.combine is Combine.ADD and position not in (0, content):
      raise ValueError(
        f'positions that are added must have {content} channels like the '
        f'content, got {position}; set position_projection.'
      )
    if self.positions is None and self.position_projection is not None:
      raise ValueError(
        'position_projection must be None without positions, '
        f'got {self.position_projection}.'
      )

  def make(self, name: str) -> 'ImageModality':
    return ImageModality(self, name=name)


class ImageModality(hk.Module):
  """Turns images into tokens; see `ImageInput`."""

  def __init__(self, config: ImageInput, name: str | None = None):
    super().__init__(name)
    self._config = config

  def __call__(self, inputs: Images, *, is_training: bool) -> Tokens:
    config = self._config
    images = self._checked(inputs)
    if (
      config.permutation_seed is not None and not config.embedding.keeps_pixels
    ):
      images = _permute_pixels(images, config.permutation_seed)
    content = config.embedding(images, is_training=is_training)
    tokens = self._with_positions(content)
    if config.permutation_seed is not None and config.embedding.keeps_pixels:
      order = _permutation(tokens.num_tokens, config.permutation_seed)
      tokens = Tokens(tokens.dense()[:, order])
    return tokens

  def _checked(self, images: Images) -> Array:
    channels = self._config.image_channels
    if images.ndim != 4 or images.shape[-1] != channels:
      raise ValueError(
        f'images must have shape [B, Y, X, {channels}], '
        f'got {list(images.shape)}.'
      )
    if not jnp.issubdtype(images.dtype, jnp.floating):
      raise TypeError(
        f'images must be floating point and normalised, got {images.dtype}.'
      )
    return jnp.asarray(images)

  @hk.transparent
  def _with_positions(self, content: Float[Array, 'B y x C']) -> Tokens:
    config = self._config
    if config.positions is None:
      return Tokens(content)
    axes = content.shape[1:-1]
    entries = config.positions(axes)
    if config.position_projection is not None:
      # A batch of one, without content, multiplies the positions out.
      empty = Tokens(jnp.zeros((1, *axes, 0), content.dtype), entries)
      project = hk.Linear(config.position_projection, name='projection')
      entries = (project(empty.dense()[0]),)
    if config.combine is Combine.CONCATENATE:
      return Tokens(content, entries)
    empty = Tokens(jnp.zeros((1, *axes, 0), content.dtype), entries)
    return Tokens(content + empty.dense().reshape(1, *axes, -1))


def _permutation(size: int, seed: int) -> np.ndarray:
  return np.random.default_rng(seed).permutation(size)


def _permute_pixels(images: Array, seed: int) -> Array:
  batch, height, width, channels = images.shape
  pixels = images.reshape(batch, height * width, channels)
  return pixels[:, _permutation(height * width, seed)].reshape(images.shape)
