"""The 1,797 handwritten digits that come with scikit-learn: no download."""

import zlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from perceiver_jax.data.digits_builder import Digits
from perceiver_jax.data.embedded import embedded_builder
from perceiver_jax.data.images import SmallImageData


class DigitsData(SmallImageData):
  """8x8 images of ten digits; the data set is prepared when first used.

  Examples are `{'image': uint8 [8, 8, 1], 'label': int32 []}`.
  """

  batch_size: int = 64
  eval_batch_size: int = 64
  train_split: str = 'train'
  eval_split: str = 'test'
  num_threads: int = 1

  def builder(self) -> tfds.core.DatasetBuilder:
    return embedded_builder(Digits, self.data_dir)


class ScatteredDigitsData(DigitsData):
  """Each digit somewhere on an empty square, so that it must be found.

  In training it is somewhere else each time, in evaluation always at the same
  place, which its pixels decide. Examples are `{'image': uint8 [size, size, 1],
  'label': int32 []}`.

  Attributes:
    canvas_size: rows and columns of the square.
  """

  canvas_size: int = 16

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(8, 'canvas_size')

  def preprocess(
    self, example: dict[str, Any], rng: np.random.Generator | None
  ) -> dict[str, np.ndarray]:
    example = super().preprocess(example, rng)
    digit = example['image']
    if rng is None:
      rng = np.random.default_rng(zlib.crc32(digit.tobytes()))
    height, width, channels = digit.shape
    top, left = rng.integers(
      0, (self.canvas_size - height + 1, self.canvas_size - width + 1)
    )
    canvas = np.zeros((self.canvas_size, self.canvas_size, channels), np.uint8)
    canvas[top : top + height, left : left + width] = digit
    return example | {'image': canvas}
