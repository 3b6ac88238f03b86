"""Image classification data sets that TFDS has prepared."""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from perceiver_jax.data import records
from perceiver_jax.data.labelled import LabelledData


class SmallImageData(LabelledData):
  """Images of one size, which are used as they are.

  Examples are `{'image': uint8 [Y, X, C], 'label': int32 []}`.

  Attributes:
    max_shift: while training, each image moves by up to so many pixels along
      each axis, at random; zeros move in.
  """

  max_shift: int = 0

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(0, 'max_shift')

  def preprocess(
    self, example: dict[str, Any], rng: np.random.Generator | None
  ) -> dict[str, np.ndarray]:
    image = example['image']
    bound = self.max_shift
    if bound >= min(image.shape[:2]):
      raise ValueError(
        'max_shift must be smaller than the images, which are '
        f'{image.shape[0]} x {image.shape[1]}, got {bound}.'
      )
    if rng is not None and bound:
      image = _shifted(image, rng.integers(-bound, bound + 1, size=2), bound)
    return {'image': image, 'label': np.asarray(example['label'], np.int32)}


class TfdsImageData(SmallImageData):
  """Any TFDS data set of equally large images in `image`, labels in `label`.

  Attributes:
    name: as TFDS spells it, such as 'mnist' or 'cifar10'; it must be prepared.
  """

  name: str

  def builder(self) -> tfds.core.DatasetBuilder:
    return records.prepared_builder(self.name, self.data_dir)


def _shifted(image: np.ndarray, shift: np.ndarray, bound: int) -> np.ndarray:
  """Returns the image moved down and right by `shift`, at most `bound`."""
  height, width, channels = image.shape
  padded = np.zeros(
    (height + 2 * bound, width + 2 * bound, channels), image.dtype
  )
  padded[bound : bound + height, bound : bound + width] = image
  top, left = bound - shift
  return padded[top : top + height, left : left + width]
