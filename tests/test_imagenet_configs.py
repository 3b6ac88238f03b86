"""The configs of ImageNet are the rows of the papers' tables."""

import re

import config_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import perceiver_jax
from perceiver_jax import presets
from perceiver_jax.data.randaugment import RandAugment
from perceiver_jax.model import Precision
from perceiver_jax.nn.repeat import Remat
from perceiver_jax.tasks.mixing import Mixing
from perceiver_jax.training import loop
from perceiver_jax.training.dry_run import dry_run
from perceiver_jax.training.initial_weights import load_weights
from perceiver_jax.training.optimizers import Lamb

_NUM_TRAIN = 1_281_167
_IMAGE = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)


# Source: arXiv 2103.03206, table 6, in billions and millions. For one
# cross-attend at the start it prints 41.1 million, a typo: the model is the
# interleaved one.
@pytest.mark.parametrize(
  ('count', 'flops', 'params'),
  [(1, 404.3, 42.1), (2, 447.6, 44.9), (4, 534.1, 44.9), (8, 707.2, 44.9)],
)
@pytest.mark.parametrize('placement', ['start', 'interleaved'])
def test_rows_of_table_6_have_their_size(placement, count, flops, params):
  name = f'{placement}_{count}'.replace('interleaved_8', '')
  model = config_files.load('imagenet_perceiver').get_config(name).model
  assert perceiver_jax.count_params(model) / 1e6 == pytest.approx(
    params, abs=0.05
  )
  counted = perceiver_jax.count_flops(model, _IMAGE) / 1e9
  assert counted == pytest.approx(flops, rel=0.002)


@pytest.mark.parametrize(
  ('file', 'variant', 'preset'),
  [
    ('perceiver', '', presets.perceiver_imagenet_fourier()),
    ('perceiver', 'learned', presets.perceiver_imagenet_learned()),
    (
      'perceiver',
      'unshared',
      presets.perceiver_imagenet_fourier(share_weights=False),
    ),
    ('perceiver_io', '', presets.perceiver_io_imagenet_fourier()),
    ('perceiver_io', 'learned', presets.perceiver_io_imagenet_learned()),
    ('perceiver_io', 'conv', presets.perceiver_io_imagenet_conv()),
    (
      'perceiver_io',
      'average',
      presets.perceiver_io_imagenet_fourier(use_attention_decoder=False),
    ),
    (
      'perceiver_io',
      'learned_average',
      presets.perceiver_io_imagenet_learned(use_attention_decoder=False),
    ),
    (
      'perceiver_io',
      'conv_average',
      presets.perceiver_io_imagenet_conv(use_attention_decoder=False),
    ),
  ],
)
def test_model_is_the_published_one_and_fits_a_device(file, variant, preset):
  model = config_files.load(f'imagenet_{file}').get_config(variant).model
  assert model.self_attend.remat is model.cross_attend.remat is Remat.ALL
  model.self_attend.remat = model.cross_attend.remat = Remat.NONE
  assert model == preset


def _rates(config, epochs):
  """Returns the learning rate at some times of the run."""
  steps_per_epoch = _NUM_TRAIN / config.data.batch_size
  schedule = config.optimizer.schedule.make(
    batch_size=config.data.batch_size,
    steps_per_epoch=steps_per_epoch,
    num_steps=config.steps(_NUM_TRAIN),
  )
  return [float(schedule(round(e * steps_per_epoch))) for e in epochs]


# Source: arXiv 2103.03206, section 4.1 and appendix B: the objective and the
# schedule. What it leaves open is that of Perceiver IO.
def test_recipe_of_the_perceiver_is_the_published_one():
  config = config_files.load('imagenet_perceiver').get_config()
  assert (config.data.batch_size, config.num_epochs) == (1024, 120.0)
  assert _rates(config, [0, 83.9, 84.1, 102.1, 114.1]) == pytest.approx(
    [4e-3, 4e-3, 4e-4, 4e-5, 4e-6]
  )
  assert type(config.optimizer) is Lamb
  assert config.optimizer.weight_decay == 0.1
  assert config.optimizer.max_grad_norm == 10.0
  assert config.task.label_smoothing == 0.0
  assert config.task.mixing is None
  _check_data(config.data)


# Source: arXiv 2107.14795, appendix A, and the published training script.
def test_recipe_of_perceiver_io_is_the_published_one():
  config = config_files.load('imagenet_perceiver_io').get_config()
  assert (config.data.batch_size, config.num_epochs) == (1024, 110.0)
  assert _rates(config, [0, 54.9, 82.5, 110]) == pytest.approx(
    [2e-3, 2e-3, 1e-3, 0], abs=1e-6
  )
  assert type(config.optimizer) is Lamb
  assert config.optimizer.weight_decay == 0.1
  assert config.optimizer.max_grad_norm == 10.0
  assert config.task.label_smoothing == 0.1
  assert config.task.mixing == Mixing(mixup_alpha=0.2, cutmix_alpha=1.0)
  _check_data(config.data)


def _check_data(data):
  assert data.image_size == (224, 224)
  assert data.crop_area == (0.08, 1.0)
  assert data.crop_ratio == pytest.approx((0.75, 4 / 3))
  assert data.randaugment == RandAugment(num_layers=4, magnitude=5)
  assert data.eval_crop_fraction == 0.875


@pytest.mark.parametrize('file', ['perceiver', 'perceiver_io', 'finetune'])
def test_learning_rate_follows_the_batch_size(file):
  config = config_files.load(f'imagenet_{file}').get_config()
  (before,) = _rates(config, [1])
  config.data.batch_size //= 4
  assert _rates(config, [1]) == pytest.approx([before / 4])


@pytest.mark.slow
@pytest.mark.usefixtures('fast_compilation')
def test_tiny_run_is_what_the_tiny_fine_tuning_starts_from(
  imagenet_dir, tmp_path
):
  pretrained = config_files.load('imagenet_perceiver_io').get_config('debug')
  tuned = config_files.load('imagenet_finetune').get_config('debug')
  tuned.initial_weights.path = str(tmp_path / 'pretrained')
  tuned.optimizer.schedule.learning_rate = 0.0
  for config, name in ((pretrained, 'pretrained'), (tuned, 'tuned')):
    config.data.data_dir = imagenet_dir
    loop.train(config, tmp_path / name)
  before, after = (
    load_weights(tmp_path / name, config.model).params
    for config, name in ((pretrained, 'pretrained'), (tuned, 'tuned'))
  )
  np.testing.assert_array_equal(
    after['encoder']['latents'], before['encoder']['latents']
  )
  logits = 'outputs/logits'
  assert np.any(after[logits]['w'] != before[logits]['w'])


# What the configs promise of one device.
@pytest.mark.slow
@pytest.mark.parametrize(
  ('file', 'variant', 'gibibytes'),
  [
    ('perceiver', '', 3.6),
    ('perceiver', 'learned', 7.0),
    ('perceiver', 'permuted', 6.6),
    ('perceiver_io', '', 3.4),
    ('perceiver_io', 'conv', 4.1),
    ('perceiver_io', 'learned', 18.7),
    ('finetune', 'learned', 48.5),
  ],
)
def test_saved_activations_are_as_documented(
  file, variant, gibibytes, imagenet_dir
):
  config = config_files.load(f'imagenet_{file}').get_config(variant)
  config.data.data_dir = imagenet_dir
  config.model.precision = Precision.BFLOAT16
  config.accumulation_steps = 16
  config.initial_weights = None
  (saved,) = re.findall('saved activations.* ([0-9.,]+) MiB', dry_run(config))
  assert float(saved.replace(',', '')) / 1024 == pytest.approx(
    gibibytes, rel=0.03
  )
