"""Ten words that eSpeak NG speaks in many voices, on first use: no download."""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from perceiver_jax.data.embedded import embedded_builder
from perceiver_jax.data.labelled import LabelledData
from perceiver_jax.data.spoken_words_builder import SpokenWords


class SpokenWordsData(LabelledData):
  """A second of sound for each word; needs the program `espeak-ng` once.

  Examples are `{'audio': int16 [8192, 1], 'label': int32 []}`, at 8 kHz.

  Attributes:
    max_shift: while training, each sound moves by up to so many samples, at
      random; silence moves in.
  """

  batch_size: int = 64
  eval_batch_size: int = 80
  train_split: str = 'train'
  eval_split: str = 'test'
  num_threads: int = 1
  max_shift: int = 0

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(0, 'max_shift')

  def builder(self) -> tfds.core.DatasetBuilder:
    return embedded_builder(SpokenWords, self.data_dir)

  def preprocess(
    self, example: dict[str, Any], rng: np.random.Generator | None
  ) -> dict[str, np.ndarray]:
    audio, bound = example['audio'], self.max_shift
    if rng is not None and bound:
      padded = np.pad(audio, ((bound, bound), (0, 0)))
      start = rng.integers(2 * bound + 1)
      audio = padded[start : start + len(audio)]
    return {'audio': audio, 'label': np.asarray(example['label'], np.int32)}
