"""Bouncing shapes with the sounds of it, made on first use: no download."""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from perceiver_jax.data.embedded import embedded_builder
from perceiver_jax.data.labelled import LabelledData
from perceiver_jax.data.sights_and_sounds_builder import SightsAndSounds


class SightsAndSoundsData(LabelledData):
  """A second of video and sound; the data set is prepared when first used.

  Examples are `{'video': uint8 [16, 20, 20, 1], 'audio': int16 [8192, 1],
  'label': int32 []}`.
  """

  batch_size: int = 64
  eval_batch_size: int = 100
  train_split: str = 'train'
  eval_split: str = 'test'
  num_threads: int = 1

  def builder(self) -> tfds.core.DatasetBuilder:
    return embedded_builder(SightsAndSounds, self.data_dir)

  def preprocess(
    self, example: dict[str, Any], rng: np.random.Generator | None
  ) -> dict[str, np.ndarray]:
    del rng  # Every example is new enough.
    return example | {'label': np.asarray(example['label'], np.int32)}
