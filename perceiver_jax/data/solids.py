"""Points on solids of ten kinds, made on first use: no download."""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from perceiver_jax.data.embedded import embedded_builder
from perceiver_jax.data.points import PointsData
from perceiver_jax.data.solids_builder import Solids, turned


class SolidsData(PointsData):
  """256 points of each solid; the data set is prepared when first used.

  Attributes:
    is_turned: while training, each solid is turned by any angle about the
      upright axis, at random.
  """

  batch_size: int = 64
  eval_batch_size: int = 100
  train_split: str = 'train'
  eval_split: str = 'test'
  num_threads: int = 1
  is_turned: bool = False

  def builder(self) -> tfds.core.DatasetBuilder:
    return embedded_builder(Solids, self.data_dir)

  def preprocess(
    self, example: dict[str, Any], rng: np.random.Generator | None
  ) -> dict[str, np.ndarray]:
    if rng is not None and self.is_turned:
      example = example | {'points': turned(example['points'], rng)}
    return super().preprocess(example, rng)
