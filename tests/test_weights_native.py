"""Files of `save_pretrained`: what comes back, and what is refused."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

import perceiver_jax
from perceiver_jax.config import Config
from perceiver_jax.modalities.image import (
  ConvEmbedding,
  FourierPositions,
  ImageInput,
)
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.modalities.points import PointsInput
from perceiver_jax.model import AttentionDecoder, PerceiverConfig
from perceiver_jax.nn import repeat
from perceiver_jax.nn.blocks import Gelu, SelfAttendConfig
from perceiver_jax.weights import files

_CONFIG_KEY = 'perceiver_jax.config'
_QUERY = 'params/decoder/query'


class ForeignConfig(Config):
  """A config that is none of a model."""

  size: int = 1


def _config(inputs=None):
  positions = FourierPositions(num_bands=2, max_resolution=(8, 8))
  return PerceiverConfig(
    inputs=inputs or ImageInput(positions=positions),
    outputs=LabelOutput(num_classes=3),
    num_latents=4,
    latent_channels=8,
    num_blocks=1,
    num_self_attends_per_block=1,
    self_attend=SelfAttendConfig(num_heads=2, gelu=Gelu.EXACT),
    decoder=AttentionDecoder(query_channels=8),
  )


def _weights(config):
  shapes = jax.eval_shape(
    perceiver_jax.build_with_state(config).init,
    jax.random.key(0),
    config.inputs.example(),
  )
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: (10 * rng.normal(size=leaf.shape)).astype(leaf.dtype), shapes
  )


@pytest.fixture
def saved(tmp_path):
  path = tmp_path / 'model.safetensors'
  config = _config()
  perceiver_jax.save_pretrained(path, config, *_weights(config))
  return path


def _rewritten(path, change):
  """Rewrites a file after `change(arrays, metadata)`."""
  with safe_open(path, 'numpy') as file:
    arrays, metadata = file.get_tensors(), file.metadata()
  change(arrays, metadata)
  save_file(arrays, path, metadata)


def _assert_same(actual, expected):
  jax.tree.map(np.testing.assert_array_equal, actual, expected)
  dtypes = [
    jax.tree.map(lambda leaf: leaf.dtype, t) for t in (actual, expected)
  ]
  assert dtypes[0] == dtypes[1]


@pytest.mark.parametrize(
  'embedding', [None, ConvEmbedding(channels=4)], ids=['stateless', 'stateful']
)
def test_saved_model_comes_back_as_it_was(tmp_path, embedding):
  inputs = ImageInput(positions=FourierPositions(num_bands=2))
  if embedding is not None:
    inputs.embedding = embedding
  config = _config(inputs)
  weights = _weights(config)
  assert bool(weights[1]) == (embedding is not None)
  perceiver_jax.save_pretrained(tmp_path / 'model', config, *weights)
  loaded = perceiver_jax.load_pretrained(tmp_path / 'model')
  assert loaded.config == config
  _assert_same((loaded.params, loaded.state), weights)


def test_arrays_that_are_not_contiguous_are_saved_in_order(tmp_path):
  config = _config()
  params, _ = _weights(config)
  turned = jax.tree.map(lambda leaf: np.asarray(leaf, order='F'), params)
  perceiver_jax.save_pretrained(tmp_path / 'model', config, turned)
  _assert_same(perceiver_jax.load_pretrained(tmp_path / 'model').params, params)


def test_file_is_enough_for_a_new_process(tmp_path):
  path = tmp_path / 'points.safetensors'
  config = _config(PointsInput(num_bands=2))
  perceiver_jax.save_pretrained(path, config, *_weights(config))
  program = (
    'import sys, perceiver_jax\n'
    'config, params, _ = perceiver_jax.load_pretrained(sys.argv[1])\n'
    'print(type(config.inputs).__name__, params["decoder"]["query"].shape)'
  )
  printed = subprocess.run(
    [sys.executable, '-c', program, path],
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  assert printed == 'PointsInput (1, 8)\n'


def _without_query(arrays, metadata):
  del arrays[_QUERY], metadata


def _with_surplus(arrays, metadata):
  del metadata
  arrays['state/surplus/w'] = np.zeros(2, np.float32)


def _with_wrong_shape(arrays, metadata):
  del metadata
  arrays[_QUERY] = arrays[_QUERY].T.copy()


def _with_wrong_dtype(arrays, metadata):
  del metadata
  arrays[_QUERY] = arrays[_QUERY].astype(np.float16)


def _with_config(text):
  def change(arrays, metadata):
    del arrays
    metadata[_CONFIG_KEY] = text

  return change


def _without_config(arrays, metadata):
  del arrays, metadata[_CONFIG_KEY]


def _with_field(name, value):
  def change(arrays, metadata):
    del arrays
    config = json.loads(metadata[_CONFIG_KEY]) | {name: value}
    metadata[_CONFIG_KEY] = json.dumps(config)

  return change


def _with_fields(**fields):
  def change(arrays, metadata):
    for name, value in fields.items():
      _with_field(name, value)(arrays, metadata)

  return change


def _with_positions(name, value):
  def change(arrays, metadata):
    del arrays
    config = json.loads(metadata[_CONFIG_KEY])
    config['inputs']['positions'][name] = value
    metadata[_CONFIG_KEY] = json.dumps(config)

  return change


_LEARNED = {
  'class': 'LearnedPositions',
  'grid': [2**13, 2**13],
  'num_channels': 18,
}


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (_without_query, f'must hold the .* arrays .*{_QUERY} is missing'),
    (_with_surplus, 'state/surplus/w is left over'),
    (_with_wrong_shape, r'query must be float32 of shape \(1, 8\), .*\(8, 1\)'),
    (_with_wrong_dtype, 'query must be float32 .*, got float16 of shape'),
    (_with_config('{'), 'must hold the config of a model, got: .*JSON'),
    (_with_config('[' * 100_000), 'must hold the config of a model'),
    (_with_config('{"class": "os.system"}'), "got 'os.system'"),
    (_with_config('{"class": "ForeignConfig"}'), 'class is ForeignConfig'),
    (_without_config, 'must be written by save_pretrained'),
    (_with_field('depth', 3), "has no field 'depth'"),
    (_with_field('num_latents', [4]), 'num_latents must be int'),
    (_with_field('num_latents', 0), 'num_latents must be at least 1'),
    (_with_field('num_latents', 5), r'latents must be .*\(5, 8\), .*\(4, 8\)'),
    (_with_field('precision', {'a': 1}), 'precision must be Precision'),
    (_with_field('num_latents', 10**40), 'must hold the config of a model'),
    # Each would take minutes or all memory, if it were only tried.
    (
      _with_field('num_self_attends_per_block', 10**8),
      'got 100000001 layers and 56 arrays',
    ),
    (
      _with_fields(num_blocks=10**8, share_blocks=False),
      'got 100000001 layers and 56 arrays',
    ),
    (
      _with_fields(
        num_blocks=10**8, num_cross_attends=10**8, share_cross_attends=False
      ),
      'got 100000001 layers and 56 arrays',
    ),
    (_with_field('num_blocks', 10**7), 'shared ones too, .* got 10,000,001'),
    (_with_positions('num_bands', 10**9), 'sizes must .* got 1,000,000,000'),
    (
      _with_field('inputs', {'class': 'ImageInput', 'positions': _LEARNED}),
      'sizes must be at most 16,777,216 with .* got 67,108,864',
    ),
  ],
)
def test_file_of_another_model_is_refused_by_its_name(saved, change, message):
  _rewritten(saved, change)
  with pytest.raises(ValueError, match=message) as error:
    perceiver_jax.load_pretrained(saved)
  assert str(error.value).startswith(str(saved))


def test_layers_that_are_not_scanned_are_not_traced_one_by_one(
  saved, monkeypatch
):
  calls = []
  call = repeat.Block.__call__

  def counted(block, *args, **kwargs):
    calls.append(block)
    return call(block, *args, **kwargs)

  monkeypatch.setattr(repeat.Block, '__call__', counted)
  _rewritten(saved, _with_fields(num_blocks=50, unroll=True))
  config = perceiver_jax.load_pretrained(saved).config
  assert (config.num_blocks, config.unroll) == (50, True)
  assert 0 < len(calls) < 10


@pytest.mark.parametrize('end', [0, 7, 100, -1])
def test_truncated_file_is_refused_by_its_name(saved, end):
  saved.write_bytes(saved.read_bytes()[:end])
  message = f'^{saved} must be a complete safetensors file'
  with pytest.raises(ValueError, match=message):
    perceiver_jax.load_pretrained(saved)


def test_damaged_header_is_refused_by_the_name_of_its_file(saved):
  data = bytearray(saved.read_bytes())
  data[8] = ord('?')
  saved.write_bytes(data)
  with pytest.raises(ValueError, match=f'^{saved} must be a complete'):
    perceiver_jax.load_pretrained(saved)


def test_file_that_is_not_there_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='nothing.safetensors'):
    perceiver_jax.load_pretrained(tmp_path / 'nothing.safetensors')


def test_weights_of_another_model_are_not_saved(tmp_path):
  config = _config()
  params, _ = _weights(config)
  config.outputs.num_classes = 4
  with pytest.raises(ValueError, match=r'w must be .*\(8, 4\), .*\(8, 3'):
    perceiver_jax.save_pretrained(tmp_path / 'model', config, params)
  assert not list(tmp_path.iterdir())


def test_failed_save_leaves_what_was_there(saved, monkeypatch):
  before = saved.read_bytes()

  def fail(descriptor):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', fail)
  params = jax.tree.map(np.zeros_like, _weights(_config())[0])
  with pytest.raises(OSError, match='No space left'):
    perceiver_jax.save_pretrained(saved, _config(), params)
  assert saved.read_bytes() == before
  assert list(saved.parent.iterdir()) == [saved]


def test_failure_of_the_format_is_one_of_writing(saved, monkeypatch):
  def fail(*args):
    raise SafetensorError('I/O error: no space')

  monkeypatch.setattr(files, 'save_file', fail)
  with pytest.raises(OSError, match=f'^{saved} could not be .* no space'):
    perceiver_jax.save_pretrained(saved, _config(), *_weights(_config()))
  assert list(saved.parent.iterdir()) == [saved]


def test_saved_file_can_be_read_by_whom_the_umask_lets(saved):
  umask = os.umask(0)
  os.umask(umask)
  assert saved.stat().st_mode & 0o777 == 0o666 & ~umask


def test_directory_to_save_in_must_exist(tmp_path):
  path = tmp_path / 'no' / 'model'
  with pytest.raises(FileNotFoundError, match=f'the directory of {path} must'):
    perceiver_jax.save_pretrained(path, _config(), *_weights(_config()))
