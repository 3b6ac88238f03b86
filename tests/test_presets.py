"""Every published architecture at full size, by shapes alone.

`pytest tests/test_presets.py --update-golden` writes `tests/golden/` anew. A
name or a shape that changes there breaks every checkpoint.
"""

import inspect
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import pytest

import perceiver_jax
from perceiver_jax import presets

_GOLDEN = pathlib.Path(__file__).parent / 'golden'
_IMAGE = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)


def _variants():
  """Every preset, and again with each of its switches flipped."""
  for name, preset in inspect.getmembers(presets, inspect.isfunction):
    if name.startswith('_') or preset.__module__ != presets.__name__:
      continue
    yield name, preset()
    for switch, parameter in inspect.signature(preset).parameters.items():
      value = not parameter.default
      yield f'{name}.{switch}={value}', preset(**{switch: value})


_PRESETS = dict(_variants())


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


@pytest.mark.parametrize('name', _PRESETS)
def test_parameters_of_preset_are_the_golden_ones(name, request):
  path = _GOLDEN / f'{name}.json'
  tree = _tree(_PRESETS[name])
  if request.config.getoption('--update-golden'):
    path.parent.mkdir(exist_ok=True)
    path.write_text(_json(tree))
  assert tree == json.loads(path.read_text())


def test_every_golden_tree_belongs_to_a_preset():
  assert {path.stem for path in _GOLDEN.glob('*.json')} == set(_PRESETS)


@pytest.mark.parametrize('name', _PRESETS)
def test_preset_is_valid_and_survives_json(name):
  config = _PRESETS[name]
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
  ],
)
def test_preset_has_the_published_number_of_parameters(name, num_params):
  assert perceiver_jax.count_params(_PRESETS[name]) == num_params


def test_conv_preset_keeps_258_batch_statistics():
  assert _tree(presets.perceiver_io_imagenet_conv())['num_state'] == 258


# Source: arXiv 2103.03206, table 7; arXiv 2107.14795, table 7. The latter
# prints 407 billion for learned positions too, which its own layer sizes
# contradict.
@pytest.mark.parametrize(
  ('name', 'billions'),
  [
    ('perceiver_imagenet_fourier', 707.2),
    ('perceiver_imagenet_fourier.share_weights=False', 707.2),
    ('perceiver_io_imagenet_fourier', 407),
    ('perceiver_io_imagenet_conv', 369),
    (f'perceiver_io_imagenet_fourier.{_AVERAGE}', 404),
    (f'perceiver_io_imagenet_conv.{_AVERAGE}', 367),
    ('perceiver_io_imagenet_learned', 478),
  ],
)
def test_flops_of_preset_are_the_published_ones(name, billions):
  flops = perceiver_jax.count_flops(_PRESETS[name], _IMAGE)
  assert flops == pytest.approx(billions * 1e9, rel=0.01)


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
  assert perceiver_jax.count_flops(_PRESETS[name], _IMAGE) == expected
