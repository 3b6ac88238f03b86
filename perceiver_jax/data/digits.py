"""The 1,797 handwritten digits that come with scikit-learn: no download."""

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
