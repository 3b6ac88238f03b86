"""Handwritten digits: the embedded data set, trained in minutes on a CPU.

A first run, and the proof that a whole job works. An original Perceiver
(arXiv 2103.03206): several cross-attends to the 64 pixels of an image, weights
shared in depth, 1,442 images for training and 355 for test.

  python train.py --config=configs/digits.py --workdir=runs/digits

Variants: '' as above; io, a Perceiver IO; permuted, one fixed permutation of
the pixels together with their positions, as in table 2; debug, four steps.

Hardware and time: 2 CPU cores, 2 to 6 minutes with other programs beside it.
Test top-1 after 2,000 steps, seeds 0, 1, 2 (JAX 0.10.2):

  default   98.3  98.6  98.9
  permuted  98.0  97.7  98.0
  io        96.9     -     -
"""

from perceiver_jax.data.digits import DigitsData
from perceiver_jax.modalities.image import FourierPositions, ImageInput
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.model import (
  AttentionDecoder,
  AverageDecoder,
  PerceiverConfig,
)
from perceiver_jax.nn.blocks import SelfAttendConfig
from perceiver_jax.tasks.classification import ClassificationTask
from perceiver_jax.training.checkpoint import CheckpointConfig
from perceiver_jax.training.config import TrainConfig
from perceiver_jax.training.optimizers import AdamW
from perceiver_jax.training.schedules import Cosine

VARIANTS = ('', 'io', 'permuted', 'debug')


def get_config(variant: str = '') -> TrainConfig:
  config = TrainConfig(
    model=PerceiverConfig(
      inputs=ImageInput(
        image_channels=1, positions=FourierPositions(num_bands=8)
      ),
      outputs=LabelOutput(num_classes=10),
      num_latents=16,
      latent_channels=64,
      num_cross_attends=2,
      num_blocks=2,
      num_self_attends_per_block=2,
      self_attend=SelfAttendConfig(num_heads=4),
      decoder=AverageDecoder(),
    ),
    data=DigitsData(batch_size=64, max_shift=1),
    task=ClassificationTask(label_smoothing=0.1),
    optimizer=AdamW(
      schedule=Cosine(learning_rate=2e-3, warmup_steps=50),
      weight_decay=0.01,
      max_grad_norm=1.0,
    ),
    checkpoint=CheckpointConfig(every_steps=500),
    num_steps=2000,
    evaluate_every_steps=250,
  )
  match variant:
    case '':
      pass
    case 'io':
      config.model.num_cross_attends = 1
      config.model.decoder = AttentionDecoder(query_channels=64)
    case 'permuted':
      config.model.inputs.permutation_seed = 0
    case 'debug':
      config.num_steps = 4
      config.optimizer.schedule.warmup_steps = 1
      config.log_every_steps = 1
      config.evaluate_every_steps = 2
      config.checkpoint.every_steps = 2
    case _:
      raise ValueError(
        f'the variant must be one of {VARIANTS}, got {variant!r}.'
      )
  return config
