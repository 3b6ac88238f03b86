"""ImageNet with Perceiver IO: the rows of its table 7 that use ImageNet alone.

Source: arXiv 2107.14795, section 4.5 and appendix A, and the published training
script where it says more. LAMB, learning rate 2e-3 at batch 1024 for 55 epochs,
then a cosine to 0 over 55 more, no warm-up; weight decay 0.1 on all but biases
and the parameters of norms, clipping at 10, label smoothing 0.1; RandAugment,
MixUp on one half of a batch and CutMix on the other. The learning rate follows
the batch size in proportion.

  python train.py --config=configs/imagenet_perceiver_io.py --workdir=runs/io \
    --config.data.data_dir=DIR --config.model.precision=BFLOAT16

One device runs the same with --config.accumulation_steps=16, 64 images at a
time, but for the variants with a convolutional stem: batch norm takes its
statistics over what the devices hold at a time. Blocks are recomputed in the
backward pass, for which 3.4 GiB are then saved (conv 4.1, learned 19) where it
would be 110 without remat; estimated by --mode=dry_run. Cost: three times 407
GFLOPs an image, 1.7e20 in all (computed), and a forward pass more for remat; 8
hours on the 64 TPUv3 of the paper.

Expected top-1, from the paper; NOT YET RUN at full scale with this code:

  ''               79.0   Fourier features
  learned          72.7   learned positions
  conv             82.1   convolutional stem
  average          78.6   Fourier features; the mean over latents is decoded
  learned_average  67.6   the same with learned positions
  conv_average     77.4   the same with a convolutional stem
  debug            two steps of a tiny model
"""

from perceiver_jax import presets
from perceiver_jax.data.imagenet import ImageNetData
from perceiver_jax.nn.repeat import Remat
from perceiver_jax.tasks.classification import ClassificationTask
from perceiver_jax.tasks.mixing import Mixing
from perceiver_jax.training.checkpoint import CheckpointConfig
from perceiver_jax.training.config import TrainConfig
from perceiver_jax.training.optimizers import Lamb
from perceiver_jax.training.schedules import FlatThenCosine

_MODELS = {
  '': presets.perceiver_io_imagenet_fourier,
  'learned': presets.perceiver_io_imagenet_learned,
  'conv': presets.perceiver_io_imagenet_conv,
}
VARIANTS = (
  *_MODELS, 'average', 'learned_average', 'conv_average', 'debug',
)  # fmt: skip


def get_config(variant: str = '') -> TrainConfig:
  if variant not in VARIANTS:
    raise ValueError(f'the variant must be one of {VARIANTS}, got {variant!r}.')
  is_debug = variant == 'debug'
  name = '' if is_debug else variant.removesuffix('average').removesuffix('_')
  use_attention_decoder = not variant.endswith('average')
  config = TrainConfig(
    model=_MODELS[name](use_attention_decoder=use_attention_decoder),
    data=ImageNetData(batch_size=1024, eval_batch_size=128),
    task=ClassificationTask(
      label_smoothing=0.1,
      mixing=Mixing(),
      image_mean=(0.485, 0.456, 0.406),
      image_std=(0.229, 0.224, 0.225),
    ),
    optimizer=Lamb(
      schedule=FlatThenCosine(learning_rate=2e-3, reference_batch_size=1024),
      weight_decay=0.1,
      max_grad_norm=10.0,
    ),
    checkpoint=CheckpointConfig(every_steps=5000),
    num_epochs=110.0,
    evaluate_every_steps=5000,
  )
  config.model.self_attend.remat = config.model.cross_attend.remat = Remat.ALL
  if is_debug:
    _shrink(config)
  return config


def _shrink(config: TrainConfig) -> None:
  """Makes a job that takes seconds on a CPU."""
  config.model.num_latents = 8
  config.model.latent_channels = 32
  config.model.num_self_attends_per_block = 1
  config.model.inputs.positions.num_bands = 4
  config.model.decoder.query_channels = 32
  config.data.image_size = (32, 32)
  config.data.batch_size = 16
  config.data.eval_batch_size = 16
  config.num_epochs, config.num_steps = None, 2
  config.log_every_steps = 1
  config.evaluate_every_steps = config.checkpoint.every_steps = 2
