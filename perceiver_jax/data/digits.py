"""The 1,797 handwritten digits that come with scikit-learn: no download."""

import contextlib
import sys

import tensorflow_datasets as tfds

from perceiver_jax.data.digits_builder import Digits
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
    builder = Digits(data_dir=self.data_dir)
    if not builder.data_path.exists():
      _prepare(builder)
      # A builder that lost the race below does not know what the winner made.
      builder = Digits(data_dir=self.data_dir)
    return builder


def _prepare(builder: tfds.core.DatasetBuilder) -> None:
  """Prepares a data set, which other processes may be doing as well.

  Each works in its own directory and renames it at the end. The rename of all
  but the first fails, and they use what the first has made.
  """
  tfds.disable_progress_bar()
  # TFDS prints, and stdout may be somebody's JSON.
  with contextlib.redirect_stdout(sys.stderr):
    try:
      builder.download_and_prepare(file_format='array_record')
    except OSError:
      if not builder.data_path.exists():
        raise
