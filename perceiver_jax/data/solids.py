"""Points on solids of ten kinds, made on first use: no download."""

import tensorflow_datasets as tfds

from perceiver_jax.data.embedded import embedded_builder
from perceiver_jax.data.points import PointsData
from perceiver_jax.data.solids_builder import Solids


class SolidsData(PointsData):
  """256 points of each solid; the data set is prepared when first used."""

  batch_size: int = 64
  eval_batch_size: int = 100
  train_split: str = 'train'
  eval_split: str = 'test'
  num_threads: int = 1

  def builder(self) -> tfds.core.DatasetBuilder:
    return embedded_builder(Solids, self.data_dir)
