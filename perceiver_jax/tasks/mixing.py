"""MixUp and CutMix on the device: pairs of images with mixed labels."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from perceiver_jax.arrays import Rng
from perceiver_jax.config import Config


class Mixing(Config):
  """Mixes neighbours in a batch: half of the pairs by MixUp, half by CutMix.

  MixUp adds two images with shares that sum to 1; CutMix swaps a rectangle of
  them. The labels are mixed by the same shares. What happens to a pair depends
  on the step and its place in the global batch alone, so that it is the same
  on any number of devices.

  Source: Zhang et al. (arXiv 1710.09412), Yun et al. (arXiv 1905.04899); the
  halves and 0.2 from the published Perceiver IO training script, which makes
  one image of every two where this makes two. Its paper (arXiv 2107.14795,
  appendix A) has "CutMix with a ratio of 0.2" and MixUp without a number; in
  the script 0.2 is of MixUp, and CutMix is uniform.

  Attributes:
    mixup_alpha: the shares of MixUp are from Beta(alpha, alpha).
    cutmix_alpha: the area that CutMix keeps is from Beta(alpha, alpha); 1 is
      the uniform distribution.
  """

  mixup_alpha: float = 0.2
  cutmix_alpha: float = 1.0

  def validate(self) -> None:
    super().validate()
    for name in ('mixup_alpha', 'cutmix_alpha'):
      if not 0.0 < getattr(self, name) < math.inf:
        raise ValueError(f'{name} must be positive, got {getattr(self, name)}.')

  def mix(
    self,
    rng: Rng,
    positions: Int[Array, ' B'],
    images: Float[Array, 'B Y X C'],
    labels: Float[Array, 'B V'],
  ) -> tuple[Float[Array, 'B Y X C'], Float[Array, 'B V']]:
    """Returns mixed images and labels.

    Args:
      rng: the key of this step, the same on every device.
      positions: of the images in the global batch: B numbers in a row, the
        first of them even.
      images: of any range.
      labels: distributions over classes.

    Raises:
      ValueError: B is odd.
    """
    if len(positions) % 2:
      raise ValueError(
        'the images that a device gets at a time must be an even number for '
        f'MixUp and CutMix to pair them, got {len(positions)}.'
      )
    pairs = positions[::2] // 2
    rngs = jax.vmap(jax.random.fold_in, (None, 0))(rng, pairs)
    keeps = jax.vmap(self._keeps, (0, 0, None))(
      rngs, pairs % 2 == 0, images.shape[1:3]
    )
    # One share a pixel, for both images of a pair.
    keeps = jnp.repeat(keeps, 2, axis=0)[..., None]
    share = keeps.mean(axis=(1, 2))
    return (
      keeps * images + (1.0 - keeps) * _partners(images),
      share * labels + (1.0 - share) * _partners(labels),
    )

  def _keeps(
    self, rng: Rng, is_mixup: Bool[Array, ''], size: tuple[int, int]
  ) -> Float[Array, 'Y X']:
    """Draws how much of itself an image keeps, pixel by pixel."""
    mixup_rng, cutmix_rng, box_rng = jax.random.split(rng, 3)
    share = jax.random.beta(mixup_rng, self.mixup_alpha, self.mixup_alpha)
    area = jax.random.beta(cutmix_rng, self.cutmix_alpha, self.cutmix_alpha)
    outside = ~_box(box_rng, jnp.sqrt(1.0 - area), size)
    return jnp.where(is_mixup, share, outside)


def _box(
  rng: Rng, relative_side: Float[Array, ''], size: tuple[int, int]
) -> Bool[Array, 'Y X']:
  """Draws a rectangle with the image's shape; it may reach over the border."""

  def inside(centre: Float[Array, ''], length: int) -> Bool[Array, ' length']:
    distance = jnp.abs((jnp.arange(length) + 0.5) / length - centre)
    return distance < relative_side / 2

  row, column = jax.random.uniform(rng, (2,))
  return inside(row, size[0])[:, None] & inside(column, size[1])


def _partners(array: Float[Array, 'B *rest']) -> Float[Array, 'B *rest']:
  """Swaps the two of every pair of rows."""
  pairs = array.reshape(-1, 2, *array.shape[1:])
  return pairs[:, ::-1].reshape(array.shape)
