"""The summary tells every stage, and its parts add up."""

import jax
import jax.numpy as jnp
import pytest
from tiny_configs import FULL_PRESETS, KINETICS, KINETICS_QUERIES

import perceiver_jax
from perceiver_jax import presets
from perceiver_jax.modalities.image import (
  Combine,
  FourierPositions,
  ImageInput,
)


@pytest.mark.parametrize(
  'name',
  [
    'perceiver_audioset_mel_video',
    'perceiver_imagenet_fourier',
    'perceiver_imagenet_learned',
    'perceiver_io_imagenet_conv',
    'perceiver_io_kinetics_autoencoding',
    'perceiver_io_language_glue.use_multitask_queries=True',
    'perceiver_io_optical_flow',
    'perceiver_io_starcraft',
    'perceiver_modelnet40',
  ],
)
def test_stages_add_up_to_the_model(name):
  config = FULL_PRESETS[name]
  inputs = config.inputs.example()
  stages = perceiver_jax.summary(config, inputs)
  assert stages.num_params == perceiver_jax.count_params(config)
  assert stages.flops == perceiver_jax.count_flops(config, inputs)
  assert min(stage.flops for stage in stages.stages) >= 0
  assert min(stage.num_params for stage in stages.stages) >= 0


def _lines(config, inputs):
  text = str(perceiver_jax.summary(config, inputs))
  return [' '.join(line.split()) for line in text.splitlines()]


# The parameters and FLOPs are those of the formulas in the papers.
def test_summary_tells_where_50176_x_261_comes_from():
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  assert _lines(presets.perceiver_imagenet_fourier(), images) == [
    'stage shape parameters FLOPs what it is',
    'inputs [1, 224, 224, 3] float32',
    'tokens [1, 50176, 261] pixels 3 + Fourier features 258 = 261 '
    '(2 axes x (2 x 64 bands + 1) = 258)',
    'latents [1, 512, 1024] 524,288 learned',
    'cross-attend 1 [1, 512, 1024] 2,776,395 43,187,474,432 latents read '
    'tokens, 1 head',
    'cross-attends 2 to 8 [1, 512, 1024] 2,776,395 302,312,321,024 latents '
    'read tokens again, interleaved, shared weights',
    'self-attends [1, 512, 1024] 37,810,176 360,777,252,864 8 x 6, 8 heads, '
    'shared weights',
    'decoder [1, 1, 1024] the mean over latents',
    'outputs [1, 1000] 1,025,000 2,048,000 float32',
    'total 44,912,254 706,279,096,320',
  ]


def test_summary_tells_the_modalities_apart():
  config = presets.perceiver_io_kinetics_autoencoding()
  lines = _lines(config, KINETICS)
  for line in [
    'inputs image [1, 16, 224, 224, 3] float32',
    'tokens audio [1, 1920, 704] samples 16 + Fourier features 385 + learned '
    '303 = 704 (1 axis x (2 x 192 bands + 1) = 385)',
    'tokens label [1, 1, 704] classes 700 + learned 4 = 704',
    'tokens [1, 52097, 704] 2,880 audio 1,920 + image 50,176 + label 1 = '
    '52,097 tokens',
    'queries [1, 804737, 1026] 2,498 MultimodalOutput',
    'outputs label [1, 700] float32',
  ]:
    assert line in lines


def test_summary_of_some_outputs_is_that_of_training():
  config = presets.perceiver_io_kinetics_autoencoding()
  stages = perceiver_jax.summary(config, KINETICS, KINETICS_QUERIES)
  assert stages.flops == 260_075_419_664
  shapes = {stage.name: stage.shape for stage in stages.stages}
  # 512 pixels, 512 patches of 16 samples, and the label.
  assert shapes['queries'] == '[1, 1025, 1026]'
  assert shapes['outputs image'] == '[1, 512, 3]'
  assert shapes['outputs audio'] == '[1, 8192, 1]'


@pytest.mark.parametrize(
  ('changes', 'note'),
  [
    ({'positions': None}, 'pixels 3'),
    (
      {'position_projection': 5},
      'pixels 3 + projected Fourier features 5 = 8 '
      '(2 axes x (2 x 2 bands + 1) = 10, projected to 5)',
    ),
    (
      {'position_projection': 3, 'combine': Combine.ADD},
      'pixels and Fourier features 3 '
      '(2 axes x (2 x 2 bands + 1) = 10, projected to 3)',
    ),
  ],
)
def test_channels_are_explained(changes, note):
  fields = {'positions': FourierPositions(num_bands=2)} | changes
  config = presets.perceiver_io_imagenet_fourier()
  config.inputs = ImageInput(**fields)
  tokens = perceiver_jax.summary(config, config.inputs.example()).stages[1]
  assert tokens.note == note


def test_inputs_that_do_not_fit_are_refused():
  images = jax.ShapeDtypeStruct((1, 224, 224, 1), jnp.float32)
  with pytest.raises(ValueError, match=r'images must have shape \[B, Y, X, 3'):
    perceiver_jax.summary(presets.perceiver_io_imagenet_fourier(), images)
