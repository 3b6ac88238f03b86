"""What a Perceiver knows of space: positions, stems, and permuted pixels.

The architecture has no spatial inductive bias of its own. This study gives it
one in four ways, and takes away what it can by one fixed permutation of the
pixels (arXiv 2103.03206, table 2). Features of coordinates move with their
pixels, so that nothing can be lost; a stem that looks at neighbourhoods of the
array loses them. The published stem has a stride of 4: of the 8 x 8 pixels of a
digit it leaves 2 x 2 tokens.

  python train.py --config=configs/spatial_bias.py:conv_permuted \
    --workdir=runs/conv_permuted
  python benchmarks/spatial_bias.py  # all of them, and a table

Variants: fourier, learned, conv (the published stem), patches (2 x 2); each
also with _permuted, and then each also with _io, an attention decoder instead
of the mean over latents, or with _scattered, each digit somewhere on a square
of 16 x 16 pixels; '' is fourier; debug, four steps. They run on the embedded
digits. With _tfds at the end, on any prepared TFDS data set of equally large
images instead:

  python train.py --config=configs/spatial_bias.py:patches_tfds \
    --config.data.name=cifar10 --config.model.inputs.image_channels=3 \
    --workdir=runs/cifar10_patches

(for learned also its size, --config.model.inputs.positions.grid=32,32; for
other than 10 classes their number, --config.model.outputs.num_classes=100.)

Hardware and time: about a minute of one CPU core a run, 400 steps. Test top-1,
means of seeds 0, 1, 2 with the mean over latents, raw and permuted (the whole
table, with each seed and the attention decoder: docs/spatial_bias.md):

  digits as they are  fourier 97.4 97.4  learned 96.1 95.8
                      conv    97.7 98.0  patches 97.3 97.3
  scattered           fourier 17.5 17.5  conv 90.5 38.3  patches 32.7 15.3
"""

import itertools

from perceiver_jax.data.digits import DigitsData, ScatteredDigitsData
from perceiver_jax.data.images import TfdsImageData
from perceiver_jax.modalities.image import (
  ConvEmbedding,
  FourierPositions,
  ImageInput,
  LearnedPositions,
  PatchEmbedding,
)
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

_NUM_STEPS = 400
_FOURIER = FourierPositions(num_bands=8)
_INPUTS = {
  'fourier': ImageInput(image_channels=1, positions=_FOURIER),
  'learned': ImageInput(
    image_channels=1, positions=LearnedPositions(grid=(8, 8), num_channels=32)
  ),
  'conv': ImageInput(
    image_channels=1,
    embedding=ConvEmbedding(channels=32),
    positions=_FOURIER,
  ),
  'patches': ImageInput(
    image_channels=1,
    embedding=PatchEmbedding(patch_size=(2, 2)),
    positions=_FOURIER,
  ),
}
STUDY = tuple(
  ''.join(parts)
  for parts in itertools.product(
    _INPUTS, ('', '_permuted'), ('', '_io', '_scattered')
  )
)
VARIANTS = ('', *STUDY, 'debug')


def get_config(variant: str = '') -> TrainConfig:
  name = variant.removesuffix('_tfds')
  if name not in VARIANTS:
    raise ValueError(
      f'the variant must be one of {VARIANTS}, or one of them with _tfds at '
      f'its end, got {variant!r}.'
    )
  kind, *options = ('fourier' if name in ('', 'debug') else name).split('_')
  config = TrainConfig(
    model=PerceiverConfig(
      inputs=_INPUTS[kind].copy(),
      outputs=LabelOutput(num_classes=10),
      num_latents=16,
      latent_channels=64,
      num_blocks=2,
      num_self_attends_per_block=2,
      self_attend=SelfAttendConfig(num_heads=4),
      decoder=AverageDecoder(),
    ),
    data=DigitsData(batch_size=64, eval_batch_size=355),
    task=ClassificationTask(label_smoothing=0.1),
    optimizer=AdamW(
      schedule=Cosine(learning_rate=2e-3, warmup_steps=50),
      weight_decay=0.01,
      max_grad_norm=1.0,
    ),
    checkpoint=CheckpointConfig(every_steps=_NUM_STEPS),
    num_steps=_NUM_STEPS,
    evaluate_every_steps=_NUM_STEPS // 2,
  )
  if variant.endswith('_tfds'):
    config.data = TfdsImageData(
      name='mnist',
      train_split='train',
      eval_split='test',
      batch_size=64,
      eval_batch_size=1000,
    )
  if 'scattered' in options:
    config.data = ScatteredDigitsData(batch_size=64, eval_batch_size=355)
    if kind == 'learned':
      config.model.inputs.positions.grid = (16, 16)
  if 'permuted' in options:
    config.model.inputs.permutation_seed = 0
  if 'io' in options:
    config.model.decoder = AttentionDecoder(query_channels=64)
  if name == 'debug':
    config.num_steps = 4
    config.optimizer.schedule.warmup_steps = 1
    config.log_every_steps = 1
    config.evaluate_every_steps = config.checkpoint.every_steps = 2
  return config
