"""The job of seconds that `faults.py` interrupts; a config file of `train.py`.

Whatever a resume may get wrong plays a part in it: batch norm, dropout,
augmentation, a schedule with warm-up, a running mean of the parameters, a best
checkpoint beside the last.

Variants: '' as above; poisoned, with a few examples that are NaN; hopeless,
with no others.
"""

from typing import Any

import numpy as np

from perceiver_jax.data.digits import DigitsData
from perceiver_jax.data.unreadable import Source
from perceiver_jax.modalities.image import (
  ConvEmbedding,
  FourierPositions,
  ImageInput,
)
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.model import AverageDecoder, PerceiverConfig
from perceiver_jax.nn.blocks import SelfAttendConfig
from perceiver_jax.tasks.classification import ClassificationTask
from perceiver_jax.training.checkpoint import CheckpointConfig
from perceiver_jax.training.config import TrainConfig
from perceiver_jax.training.optimizers import AdamW
from perceiver_jax.training.schedules import Cosine

VARIANTS = ('', 'poisoned', 'hopeless')


class _PoisonedImages:
  """A source in which some examples have an image of NaN."""

  def __init__(self, source: Source, period: int) -> None:
    self._source = source
    self._period = period

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    example = self._source[index]
    image = example['image'].astype(np.float32)
    if index % self._period == 0:
      image[:] = np.nan
    return example | {'image': image}


class PoisonedDigits(DigitsData):
  """Digits of which every so many are NaN, in training alone.

  Attributes:
    period: those of the training split whose index it divides.
  """

  period: int = 1

  def make_source(self, split: str) -> Source:
    source = super().make_source(split)
    if split != self.train_split:
      return source
    return _PoisonedImages(source, self.period)


def get_config(variant: str = '') -> TrainConfig:
  """Returns the job."""
  config = TrainConfig(
    model=PerceiverConfig(
      inputs=ImageInput(
        image_channels=1,
        embedding=ConvEmbedding(channels=4),
        positions=FourierPositions(num_bands=2),
      ),
      outputs=LabelOutput(num_classes=10),
      num_latents=16,
      latent_channels=32,
      num_blocks=1,
      num_self_attends_per_block=1,
      self_attend=SelfAttendConfig(num_heads=1, dropout_prob=0.1),
      decoder=AverageDecoder(),
    ),
    data=DigitsData(batch_size=16, eval_batch_size=360, max_shift=1),
    task=ClassificationTask(label_smoothing=0.1),
    optimizer=AdamW(schedule=Cosine(learning_rate=1e-2, warmup_steps=10)),
    checkpoint=CheckpointConfig(every_steps=10, keep_last=2),
    num_steps=100,
    ema_decay=0.9,
    log_every_steps=1,
    evaluate_every_steps=10,
  )
  match variant:
    case '':
      pass
    case 'poisoned':
      # Two or three of 1,442 examples, so that few batches have one.
      config.data = PoisonedDigits(batch_size=16, period=600)
    case 'hopeless':
      config.data = PoisonedDigits(batch_size=16)
      config.watch.max_skipped_in_a_row = 5
    case _:
      raise ValueError(
        f'the variant must be one of {VARIANTS}, got {variant!r}.'
      )
  return config
