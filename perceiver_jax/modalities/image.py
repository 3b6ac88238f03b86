"""Images as inputs: how pixels become tokens, and where a token is."""

import dataclasses
import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from perceiver_jax.arrays import DEVICE_AXIS, ExampleRngs, Images
from perceiver_jax.config import Config
from perceiver_jax.modalities.grid import Combine as Combine
from perceiver_jax.modalities.grid import FourierPositions as FourierPositions
from perceiver_jax.modalities.grid import GridInput
from perceiver_jax.modalities.grid import LearnedPositions as LearnedPositions
from perceiver_jax.nn import resample
from perceiver_jax.nn.attention import Linear
from perceiver_jax.nn.resample import StemPadding as StemPadding
from perceiver_jax.nn.tokens import Tokens


class PixelEmbedding(Config):
  """Every pixel is a token, its colours as they are.

  What every embedding has: `image_size`, the size of the images that become
  tokens on a grid, and `num_channels`, of a token made of pixels of so many.
  """

  content_name = 'pixels'
  keeps_pixels = True

  def image_size(self, grid: tuple[int, int]) -> tuple[int, int]:
    return grid

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

  content_name = 'projected pixels'
  keeps_pixels = True

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'channels')

  def image_size(self, grid: tuple[int, int]) -> tuple[int, int]:
    return grid

  def num_channels(self, image_channels: int) -> int:
    del image_channels
    return self.channels

  def __call__(self, images: Array, *, is_training: bool) -> Array:
    del is_training
    return Linear(self.channels, name='embedding')(images)


class PatchEmbedding(Config):
  """Every non-overlapping patch is a token (space to depth).

  Attributes:
    patch_size: rows and columns of a patch; must divide the image.
    channels: of a linear projection of the patch; None: not projected.
  """

  patch_size: tuple[int, int] = (4, 4)
  channels: int | None = None

  keeps_pixels = False

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'patch_size', 'channels')

  @property
  def content_name(self) -> str:
    return 'patches' if self.channels is None else 'projected patches'

  def image_size(self, grid: tuple[int, int]) -> tuple[int, int]:
    return grid[0] * self.patch_size[0], grid[1] * self.patch_size[1]

  def num_channels(self, image_channels: int) -> int:
    if self.channels is not None:
      return self.channels
    return math.prod(self.patch_size) * image_channels

  def __call__(self, images: Array, *, is_training: bool) -> Array:
    del is_training
    patches = resample.space_to_depth(images, self.patch_size)
    if self.channels is None:
      return patches
    return Linear(self.channels, name='embedding')(patches)


class ConvEmbedding(Config):
  """A convolutional stem: tokens on a grid of a quarter of the image's size.

  Attributes:
    channels: of the convolution.
    padding: what it sees beyond the edges; the published model was trained with
      SAME, and PyTorch's version of it pads symmetrically.
    sync_batch_norm: average batch statistics over all devices of the pmap
      axis 'devices' instead of each on its own.
  """

  channels: int = 64
  padding: StemPadding = StemPadding.SAME
  sync_batch_norm: bool = False

  content_name = 'convolution'
  keeps_pixels = False

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'channels')

  def image_size(self, grid: tuple[int, int]) -> tuple[int, int]:
    margin = 1 if self.padding is StemPadding.SYMMETRIC else 0
    return 4 * grid[0] + margin, 4 * grid[1] + margin

  def num_channels(self, image_channels: int) -> int:
    del image_channels
    return self.channels

  def __call__(self, images: Array, *, is_training: bool) -> Array:
    axis = DEVICE_AXIS if self.sync_batch_norm else None
    stem = resample.ConvStem(self.channels, self.padding, axis, name='stem')
    return stem(images, is_training=is_training)


ImageEmbedding = (
  PixelEmbedding | Conv1x1Embedding | PatchEmbedding | ConvEmbedding
)


class ImageInput(GridInput):
  """Images [B, Y, X, C], floating point, as inputs.

  Attributes:
    image_channels: colours of a pixel.
    embedding: how pixels become the content of tokens.
    permutation_seed: a fixed random order of pixels, the same for every image
      (arXiv 2103.03206, table 2). Embeddings that look at single pixels are
      permuted together with their positions; those that look at neighbourhoods
      get an image whose neighbourhoods are destroyed. None: not permuted.
  """

  image_channels: int = 3
  embedding: ImageEmbedding = dataclasses.field(default_factory=PixelEmbedding)
  permutation_seed: int | None = None

  num_axes = 2

  @property
  def content_channels(self) -> int:
    return self.embedding.num_channels(self.image_channels)

  @property
  def content_name(self) -> str:
    return self.embedding.content_name

  @property
  def has_state(self) -> bool:
    return isinstance(self.embedding, ConvEmbedding)

  def example(self) -> jax.ShapeDtypeStruct:
    size = self.embedding.image_size(self.example_grid())
    shape = (1, *size, self.image_channels)
    return jax.ShapeDtypeStruct(shape, jnp.float32)

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'image_channels')
    self._validate_at_least(0, 'permutation_seed')

  def make(self, name: str) -> 'ImageModality':
    return ImageModality(self, name=name)


class ImageModality(hk.Module):
  """Turns images into tokens; see `ImageInput`."""

  def __init__(self, config: ImageInput, name: str | None = None):
    super().__init__(name)
    self._config = config

  def __call__(
    self, inputs: Images, *, is_training: bool, rngs: ExampleRngs | None = None
  ) -> Tokens:
    del rngs
    config = self._config
    images = self._checked(inputs)
    if (
      config.permutation_seed is not None and not config.embedding.keeps_pixels
    ):
      images = _permute_pixels(images, config.permutation_seed)
    content = config.embedding(images, is_training=is_training)
    tokens = config.place(content)
    if config.permutation_seed is not None and config.embedding.keeps_pixels:
      order = _permutation(tokens.num_tokens, config.permutation_seed)
      tokens = Tokens(tokens.dense()[:, order])
    return tokens

  def _checked(self, images: Images) -> Array:
    channels = self._config.image_channels
    if (
      images.ndim != 4
      or images.shape[-1] != channels
      or not all(images.shape[1:3])
    ):
      raise ValueError(
        f'images must have shape [B, Y, X, {channels}] and a pixel or more, '
        f'got {list(images.shape)}.'
      )
    if not jnp.issubdtype(images.dtype, jnp.floating):
      raise TypeError(
        f'images must be floating point and normalised, got {images.dtype}.'
      )
    return jnp.asarray(images)


def _permutation(size: int, seed: int) -> np.ndarray:
  return np.random.default_rng(seed).permutation(size)


def _permute_pixels(images: Array, seed: int) -> Array:
  batch, height, width, channels = images.shape
  pixels = images.reshape(batch, height * width, channels)
  return pixels[:, _permutation(height * width, seed)].reshape(images.shape)
