"""Changes of resolution: space to depth, and the convolutional stem."""

import enum

import haiku as hk
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def space_to_depth(
  array: Float[Array, 'B *axes C'], patch_size: tuple[int, ...]
) -> Float[Array, 'B *patches P']:
  """Folds non-overlapping patches into channels.

  Args:
    array: values on a grid of any number of axes.
    patch_size: extent of a patch along each axis; must divide the axis.

  Returns:
    One vector a patch; its channels run over the axes of the patch in order,
    then over the channels of the array.

  Raises:
    ValueError: a patch does not divide its axis.
  """
  batch, *sizes, channels = array.shape
  if len(sizes) != len(patch_size) or any(
    size % patch for size, patch in zip(sizes, patch_size, strict=False)
  ):
    raise ValueError(
      f'patch_size must divide the axes {tuple(sizes)}, got {patch_size}.'
    )
  counts = [s // p for s, p in zip(sizes, patch_size, strict=True)]
  split = [n for pair in zip(counts, patch_size, strict=True) for n in pair]
  array = array.reshape(batch, *split, channels)
  num_axes = len(sizes)
  grid = [1 + 2 * i for i in range(num_axes)]
  inside = [2 + 2 * i for i in range(num_axes)]
  array = array.transpose(0, *grid, *inside, 1 + 2 * num_axes)
  return array.reshape(batch, *counts, -1)


class StemPadding(enum.Enum):
  """What the convolutional stem sees beyond the edges of an image.

  SAME: as little as gives a quarter of the size, more of it at the end than at
  the start. SYMMETRIC: three black pixels on every side, and nothing around
  the max-pool: 55 x 55 tokens of 224 x 224 pixels.
  """

  SAME = enum.auto()
  SYMMETRIC = enum.auto()


class ConvStem(hk.Module):
  """7x7 convolution, batch normalisation, ReLU, max-pool: a quarter the size.

  Source: Perceiver IO (arXiv 2107.14795) appendix A, "2D conv + maxpool".
  """

  def __init__(
    self,
    channels: int,
    padding: StemPadding,
    cross_replica_axis: str | None,
    name: str | None = None,
  ):
    super().__init__(name)
    self._channels = channels
    self._is_symmetric = padding is StemPadding.SYMMETRIC
    # Statistics across devices need the axis of a pmap, which initialisation
    # does not run in; the parameters are the same either way.
    self._axis = None if hk.running_init() else cross_replica_axis

  def __call__(
    self, images: Float[Array, 'B Y X C'], *, is_training: bool
  ) -> Float[Array, 'B y x D']:
    if self._is_symmetric and min(images.shape[1:3]) < 5:
      raise ValueError(
        'images must have at least 5 rows and columns for a stem with '
        f'symmetric padding, got {images.shape[1:3]}.'
      )
    conv = hk.Conv2D(
      self._channels,
      7,
      stride=2,
      padding=[(3, 3), (3, 3)] if self._is_symmetric else 'SAME',
      with_bias=False,
      name='convolution',
    )
    batch_norm = hk.BatchNorm(
      create_scale=True,
      create_offset=True,
      decay_rate=0.9,
      cross_replica_axis=self._axis,
      name='batch_norm',
    )
    array = conv(images)
    # Haiku creates the running averages only when it trains.
    normalised = batch_norm(
      array.astype(jnp.float32), is_training=is_training or hk.running_init()
    )
    array = jax.nn.relu(normalised.astype(array.dtype))
    padding = 'VALID' if self._is_symmetric else 'SAME'
    return hk.max_pool(array, (3, 3, 1), (2, 2, 1), padding=padding)
