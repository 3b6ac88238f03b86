"""Every published architecture at full size, by shapes alone.

`pytest tests/test_presets.py --update-golden` writes `tests/golden/` anew. A
name or a shape that changes there breaks every checkpoint.
"""

import json
import math
import pathlib

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_configs import FULL_PRESETS, KINETICS, KINETICS_QUERIES

import perceiver_jax
from perceiver_jax import presets


def _floats(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


_GOLDEN = pathlib.Path(__file__).parent / 'golden'
_IMAGE = _floats(1, 224, 224, 3)
_SOUND = _floats(1, 61_440, 1)
_CLIP = {'audio': _SOUND, 'video': _floats(1, 32, 224, 224, 3)}


def _tree(config):
  """Returns names, shapes and counts of parameters and state."""
  perceiver = perceiver_jax.build_with_state(config)
  trees = jax.eval_shape(
    perceiver.init, jax.random.key(0), config.inputs.example()
  )
  golden = {}
  for kind, tree in zip(('params', 'state'), trees, strict=True):
    golden[f'num_{kind}'] = sum(
      math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)
    )
    golden[kind] = {
      f'{module}/{name}': list(leaf.shape)
      for module, leaves in sorted(tree.items())
      for name, leaf in sorted(leaves.items())
    }
  return golden


def _json(golden):
  """One line an array, for a diff that can be read."""
  text = json.dumps(golden, indent=1)
  lines = text.replace('\n   ', '').replace('\n  ]', ']')
  return f'{lines}\n'


@pytest.mark.parametrize('name', FULL_PRESETS)
def test_parameters_of_preset_are_the_golden_ones(name, request):
  path = _GOLDEN / f'{name}.json'
  tree = _tree(FULL_PRESETS[name])
  if request.config.getoption('--update-golden'):
    path.parent.mkdir(exist_ok=True)
    path.write_text(_json(tree))
  assert tree == json.loads(path.read_text())


def test_every_golden_tree_belongs_to_a_preset():
  assert {path.stem for path in _GOLDEN.glob('*.json')} == set(FULL_PRESETS)


@pytest.mark.parametrize('name', FULL_PRESETS)
def test_preset_is_valid_and_survives_json(name):
  config = FULL_PRESETS[name]
  config.validate()
  assert perceiver_jax.config.from_json(config.to_json()) == config


_AVERAGE = 'use_attention_decoder=False'


# Source: arXiv 2103.03206, table 7 (printed in millions); the rest counted from
# the published code.
@pytest.mark.parametrize(
  ('name', 'num_params'),
  [
    ('perceiver_imagenet_fourier', 44_912_254),
    ('perceiver_imagenet_fourier.share_weights=False', 326_241_856),
    ('perceiver_io_imagenet_fourier', 48_440_627),
    ('perceiver_io_imagenet_learned', 62_255_848),
    ('perceiver_io_imagenet_conv', 48_646_522),
    (f'perceiver_io_imagenet_fourier.{_AVERAGE}', 42_135_859),
    (f'perceiver_io_imagenet_learned.{_AVERAGE}', 55_951_080),
    (f'perceiver_io_imagenet_conv.{_AVERAGE}', 42_341_754),
    ('perceiver_io_audioset_raw_video', 24_922_462),
    ('perceiver_io_audioset_mel_video', 86_568_284),
    ('perceiver_io_kinetics_autoencoding', 19_858_855),
    ('perceiver_io_starcraft', 6_183_680),
  ],
)
def test_preset_has_the_published_number_of_parameters(name, num_params):
  assert perceiver_jax.count_params(FULL_PRESETS[name]) == num_params


def test_conv_preset_keeps_258_batch_statistics():
  assert _tree(presets.perceiver_io_imagenet_conv())['num_state'] == 258


# Source: arXiv 2103.03206, table 7; arXiv 2107.14795, table 7. What the latter
# prints for learned positions, 407 billion like Fourier features, its own layer
# sizes contradict: see the formulas below.
@pytest.mark.parametrize(
  ('name', 'billions'),
  [
    ('perceiver_imagenet_fourier', 707.2),
    ('perceiver_imagenet_fourier.share_weights=False', 707.2),
    ('perceiver_io_imagenet_fourier', 407),
    ('perceiver_io_imagenet_conv', 369),
    (f'perceiver_io_imagenet_fourier.{_AVERAGE}', 404),
    (f'perceiver_io_imagenet_conv.{_AVERAGE}', 367),
  ],
)
def test_flops_of_preset_are_the_published_ones(name, billions):
  flops = perceiver_jax.count_flops(FULL_PRESETS[name], _IMAGE)
  assert flops == pytest.approx(billions * 1e9, rel=0.01)


# Source: arXiv 2107.14795, table 10: the closest its sizes come to its figures.
@pytest.mark.parametrize(
  ('name', 'billions'),
  [
    ('perceiver_io_audioset_raw_video', 52.9),
    ('perceiver_io_audioset_mel_video', 129.5),
  ],
)
def test_flops_of_audioset_presets_are_the_published_ones(name, billions):
  flops = perceiver_jax.count_flops(FULL_PRESETS[name], _CLIP)
  assert flops == pytest.approx(billions * 1e9, rel=0.005)


def test_perceiver_of_table_10_has_its_size_and_flops():
  # [2] also trained the original Perceiver with one cross-attend.
  for name, flops in [('raw', 52.3e9), ('mel', 60.7e9)]:
    config = FULL_PRESETS[f'perceiver_audioset_{name}_video'].copy()
    config.latent_channels = 512
    config.num_cross_attends = config.num_blocks = 1
    config.num_self_attends_per_block = 12
    assert perceiver_jax.count_params(config) == pytest.approx(21e6, rel=0.005)
    counted = perceiver_jax.count_flops(config, _CLIP)
    assert counted == pytest.approx(flops, rel=0.005)


# The FLOPs are those that the docstrings promise.
@pytest.mark.parametrize(
  ('name', 'inputs', 'queries', 'num_inputs', 'channels', 'flops'),
  [
    ('audioset_raw', _SOUND, None, 480, 257, 126_391_977_728),
    ('audioset_mel', _SOUND, None, 4_800, 259, 133_319_353_216),
    ('audioset_video', _CLIP['video'], None, 12_544, 483, 174_808_645_632),
    ('audioset_raw_video', _CLIP, None, 13_024, 487, 177_288_519_424),
    ('audioset_mel_video', _CLIP, None, 17_344, 487, 194_112_248_704),
    ('modelnet40', _floats(1, 2000, 3), None, 2_000, 387, 101_679_166_080),
    ('io_starcraft', _floats(1, 512, 256), None, 512, 128, 677_380_096),
    (
      'io_kinetics_autoencoding',
      KINETICS,
      KINETICS_QUERIES,
      52_097,
      704,
      260_075_419_664,
    ),
    (
      'io_kinetics_autoencoding',
      KINETICS,
      None,
      52_097,
      704,
      7_470_419_554_320,
    ),
  ],
)
def test_inputs_of_preset_become_the_published_tokens(
  name, inputs, queries, num_inputs, channels, flops
):
  config = FULL_PRESETS[f'perceiver_{name}']
  tokens = jax.eval_shape(_tokens(config.inputs), inputs)
  assert (tokens.num_tokens, tokens.num_channels) == (num_inputs, channels)
  assert config.inputs.num_channels == channels
  assert perceiver_jax.count_flops(config, inputs, queries) == flops


def _tokens(config):
  def tokens(inputs):
    def function(inputs):
      return config.make('inputs')(inputs, is_training=False)

    transformed = hk.transform(function)
    params = transformed.init(jax.random.key(0), inputs)
    return transformed.apply(params, None, inputs)

  return tokens


def _closed_form(tokens, channels, *, crosses, attention_decoder):
  """Multiply-adds of the formulas in arXiv 2103.03206, appendix B, doubled."""
  latents, width, layers, classes = 512, 1024, 48, 1000
  mlp = 2 * latents * width**2
  cross = (
    2 * latents * width * channels  # query and output
    + 2 * tokens * channels**2  # key and value
    + 2 * latents * tokens * channels  # logits and averages
    + mlp
  )
  layer = 4 * latents * width**2 + 2 * latents**2 * width + mlp
  total = crosses * cross + layers * layer + width * classes
  if attention_decoder:
    total += (2 * latents + 4) * width**2 + 2 * latents * width
  return 2 * total


@pytest.mark.parametrize(
  ('name', 'before', 'tokens', 'channels', 'crosses', 'attention_decoder'),
  [
    ('perceiver_imagenet_fourier', 0, 224**2, 261, 8, False),
    ('perceiver_imagenet_learned', 0, 224**2, 131, 1, False),
    ('perceiver_io_imagenet_fourier', 0, 224**2, 261, 1, True),
    (
      'perceiver_io_imagenet_learned',
      2 * 224**2 * (3 * 256 + 256**2),  # colours and positions projected
      224**2,
      512,
      1,
      True,
    ),
    (
      'perceiver_io_imagenet_conv',
      2 * 112**2 * 7**2 * 3 * 64,
      56**2,
      322,
      1,
      True,
    ),
  ],
)
def test_flops_of_preset_follow_the_formulas(
  name, before, tokens, channels, crosses, attention_decoder
):
  expected = before + _closed_form(
    tokens, channels, crosses=crosses, attention_decoder=attention_decoder
  )
  assert perceiver_jax.count_flops(FULL_PRESETS[name], _IMAGE) == expected


def test_zeros_are_a_spectrogram_between_silence_and_loudness():
  inputs = presets.perceiver_audioset_mel().inputs
  seconds = np.arange(61_440) / 48_000
  rng = np.random.default_rng(0)
  spectrum = np.fft.rfft(rng.normal(size=61_440))
  spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
  pink = np.fft.irfft(spectrum)
  sounds = [
    0 * seconds,
    np.sin(2 * np.pi * 1000 * seconds),
    # The level at which Kaldi's filter banks have the mean of AudioSet.
    pink * (10 ** (-32 / 20) / pink.std()),
  ]
  audio = np.stack(sounds)[..., None].astype(np.float32)
  silence, tone, noise = np.asarray(inputs.spectrogram(audio))
  np.testing.assert_allclose(silence, (np.log(1e-8) + 12) / 4, rtol=1e-5)
  np.testing.assert_allclose(tone[30].max(), 12 / 4, atol=0.2)
  assert abs(noise.mean()) < 0.3
