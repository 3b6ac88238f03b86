"""Fine-tuning of a Perceiver IO: learned weights, a new head, larger images.

Weights are a file of `perceiver_jax.save_pretrained` or the workdir of a run;
published ones become such a file by `python -m perceiver_jax.weights convert`.
Any TFDS data set of photos will do, as long as its name and its number of
classes are given. A small one, such as these 1,020 flowers, needs a small batch
and many epochs, or it has no updates to learn from (values not tried):

  python train.py --config=configs/imagenet_finetune.py --workdir=runs/tuned \
    --config.initial_weights.path=perceiver_io_imagenet_fourier.safetensors \
    --config.data.name=oxford_flowers102 --config.data.eval_split=test \
    --config.model.outputs.num_classes=102 --config.data.batch_size=64 \
    --config.num_epochs=200 --config.optimizer.schedule.learning_rate=2e-3

Source: the shape of the schedule (flat for 70 of 131 parts of the run, then a
cosine) and LAMB are those with which arXiv 2107.14795, appendix A, fine-tunes
its larger models; its learning rate of 2e-4, which the paper uses for the
convolutional stem because 2e-3 was unstable, the length of 20 epochs and images
of 384 pixels are choices of this package. NOT YET RUN at full scale.

In BFLOAT16, at 64 images at a time, a device saves 3.5 GiB for the backward
pass (conv 5.5, learned 49; estimated by --mode=dry_run).

Variants: '' Fourier features; learned, whose position table is resized; conv;
debug, two steps of a tiny model, after imagenet_perceiver_io.py:debug and with
--config.initial_weights.path=THE_WORKDIR_OF_THAT.
"""

from perceiver_jax import presets
from perceiver_jax.data.imagenet import ImageNetData
from perceiver_jax.nn.repeat import Remat
from perceiver_jax.tasks.classification import ClassificationTask
from perceiver_jax.training.checkpoint import CheckpointConfig
from perceiver_jax.training.config import TrainConfig
from perceiver_jax.training.initial_weights import InitialWeights
from perceiver_jax.training.optimizers import Lamb
from perceiver_jax.training.schedules import FlatThenCosine

_MODELS = {
  '': presets.perceiver_io_imagenet_fourier,
  'learned': presets.perceiver_io_imagenet_learned,
  'conv': presets.perceiver_io_imagenet_conv,
  'debug': presets.perceiver_io_imagenet_fourier,
}
VARIANTS = tuple(_MODELS)
_SIZE = (384, 384)


def get_config(variant: str = '') -> TrainConfig:
  if variant not in VARIANTS:
    raise ValueError(f'the variant must be one of {VARIANTS}, got {variant!r}.')
  config = TrainConfig(
    model=_MODELS[variant](),
    data=ImageNetData(batch_size=1024, eval_batch_size=128, image_size=_SIZE),
    task=ClassificationTask(
      label_smoothing=0.1,
      image_mean=(0.485, 0.456, 0.406),
      image_std=(0.229, 0.224, 0.225),
    ),
    optimizer=Lamb(
      schedule=FlatThenCosine(
        learning_rate=2e-4, reference_batch_size=1024, flat_fraction=70 / 131
      ),
      weight_decay=0.1,
      max_grad_norm=10.0,
    ),
    initial_weights=InitialWeights(
      path='pretrained.safetensors', new_modules=('outputs',)
    ),
    checkpoint=CheckpointConfig(every_steps=1000),
    num_epochs=20.0,
    evaluate_every_steps=1000,
  )
  config.model.self_attend.remat = config.model.cross_attend.remat = Remat.ALL
  if variant == 'learned':
    config.model.inputs.positions.grid = _SIZE
  if variant == 'debug':
    config.model.num_latents = 8
    config.model.latent_channels = 32
    config.model.num_self_attends_per_block = 1
    config.model.inputs.positions.num_bands = 4
    config.model.decoder.query_channels = 32
    config.data.image_size = (32, 32)
    config.data.batch_size = config.data.eval_batch_size = 16
    config.num_epochs, config.num_steps = None, 2
    config.log_every_steps = 1
    config.evaluate_every_steps = config.checkpoint.every_steps = 2
  return config
