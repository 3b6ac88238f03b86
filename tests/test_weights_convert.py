"""Files of others to ours and back, from the command line."""

import os
import pathlib
import re
import shlex
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import perceiver_jax
from perceiver_jax import presets
from perceiver_jax.modalities.image import (
  ConvEmbedding,
  FourierPositions,
  ImageInput,
  StemPadding,
)
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.model import (
  AttentionDecoder,
  AverageDecoder,
  PerceiverConfig,
)
from perceiver_jax.nn.blocks import Gelu, SelfAttendConfig
from perceiver_jax.weights import __main__ as command
from perceiver_jax.weights import deepmind, flat, huggingface
from perceiver_jax.weights.huggingface import ConvKernels

_ROOT = pathlib.Path(__file__).parents[1]
_DOCS = (_ROOT / 'docs' / 'weights.md').read_text()
_KERNEL = 'perceiver.input_preprocessor.convnet.conv.weight'


def _config():
  """Describes a model with all that a conversion has to turn or drop."""
  return PerceiverConfig(
    inputs=ImageInput(
      embedding=ConvEmbedding(channels=4),
      positions=FourierPositions(num_bands=2, max_resolution=(4, 4)),
    ),
    outputs=LabelOutput(num_classes=3),
    num_latents=4,
    latent_channels=8,
    num_blocks=2,
    num_self_attends_per_block=2,
    self_attend=SelfAttendConfig(num_heads=2),
    decoder=AttentionDecoder(query_channels=8),
  )


def _weights(config, seed=0):
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    if path[-1].key == 'counter':
      return np.array(100_000, leaf.dtype)
    return rng.standard_normal(leaf.shape, np.float32)

  shapes = jax.eval_shape(
    perceiver_jax.build_with_state(config).init,
    jax.random.key(0),
    config.inputs.example(),
  )
  params, state = jax.tree_util.tree_map_with_path(draw, shapes)
  for module, arrays in state.items():
    if module.endswith('_ema'):
      arrays['hidden'] = arrays['average']
  return params, state


@pytest.fixture
def saved(tmp_path, monkeypatch):
  """A file of ours, whose config is the preset `tiny`."""
  monkeypatch.setitem(command._PRESETS, 'tiny', _config)
  path = tmp_path / 'ours.safetensors'
  perceiver_jax.save_pretrained(path, _config(), *_weights(_config()))
  return path


def _convert(*arguments):
  command.main(['convert', *map(str, arguments)])


def _assert_same(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


_WAYS = [
  ('deepmind', 'pickle', ()),
  ('huggingface', 'safetensors', ()),
  ('huggingface', 'safetensors', ('--conv_kernels=torch',)),
  ('huggingface', 'safetensors', ('--conv_kernels=script',)),
]


@pytest.mark.parametrize(('other', 'suffix', 'options'), _WAYS)
def test_file_survives_the_way_there_and_back(
  saved, tmp_path, capsys, other, suffix, options
):
  theirs, back = tmp_path / f'theirs.{suffix}', tmp_path / 'back.safetensors'
  _convert(saved, theirs, f'--to={other}', *options)
  _convert(theirs, back, f'--from={other}', '--preset=tiny', *options)
  _assert_same(
    perceiver_jax.load_pretrained(back), perceiver_jax.load_pretrained(saved)
  )
  sizes = [np.size(leaf) for leaf in jax.tree.leaves(_weights(_config())[0])]
  printed = capsys.readouterr().out.splitlines()
  assert [line.split(':')[0] for line in printed] == [str(theirs), str(back)]
  for line in printed:
    assert f'parameters: {len(sizes)} arrays ({sum(sizes):,} numbers)' in line
    assert 'state: 6 arrays (18 numbers)' in line


def test_kernels_lie_as_they_are_said_to(saved, tmp_path):
  ours = _weights(_config())[0]['inputs/stem/convolution']['w']
  found = {}
  for kernels in ConvKernels:
    path = tmp_path / f'{kernels.name}.safetensors'
    name = kernels.name.lower()
    _convert(saved, path, '--to=huggingface', f'--conv_kernels={name}')
    found[kernels] = load_file(path)[_KERNEL]
  assert found[ConvKernels.TORCH].shape == (4, 3, 7, 7)
  # Row 1, column 5 of the kernel from colour 2 to channel 3.
  assert found[ConvKernels.TORCH][3, 2, 1, 5] == ours[1, 5, 2, 3]
  assert found[ConvKernels.SCRIPT][3, 2, 5, 1] == ours[1, 5, 2, 3]


def test_weights_of_linear_layers_are_turned_and_all_are_found():
  params, state = _weights(_config())
  state_dict = huggingface.to_huggingface(params, state, _config())
  layer = 'perceiver.encoder.self_attends.1'
  ours = 'processor/self_attend_1'
  norm = 'perceiver.input_preprocessor.convnet.batchnorm'
  average = state['inputs/stem/batch_norm/~/var_ema']['average']
  for theirs, expected in {
    f'{layer}.attention.self.key.weight': params[f'{ours}/attention/key'][
      'w'
    ].T,
    f'{layer}.attention.self.key.bias': params[f'{ours}/attention/key']['b'],
    f'{layer}.layernorm.weight': params[f'{ours}/mlp_norm']['scale'],
    f'{layer}.mlp.dense2.weight': params[f'{ours}/mlp_output']['w'].T,
    'perceiver.embeddings.latents': params['encoder']['latents'],
    f'{norm}.running_var': average.reshape(4),
    f'{norm}.num_batches_tracked': 100_000,
  }.items():
    np.testing.assert_array_equal(state_dict[theirs], expected)


def test_sums_of_batch_statistics_are_made_of_the_averages():
  params, state = _weights(_config())
  state_dict = huggingface.to_huggingface(params, state, _config())
  # As in a model of theirs that has not been trained, and in old files.
  state_dict.pop(f'{_KERNEL.rsplit(".", 2)[0]}.batchnorm.num_batches_tracked')
  _, restored = huggingface.from_huggingface(state_dict, _config())
  ema = restored['inputs/stem/batch_norm/~/mean_ema']
  np.testing.assert_array_equal(ema['hidden'], ema['average'])
  # The decay to that power is nothing, so the sum is not scaled up.
  assert np.float32(0.9) ** int(ema['counter']) == 0.0


# Source: Hugging Face's classes at the sizes of the published checkpoints.
@pytest.mark.parametrize(
  ('preset', 'num_theirs', 'num_deepmind', 'num_params', 'names'),
  [
    (
      presets.perceiver_io_language_bytes,
      457,
      457,
      201_108_230,
      {
        'perceiver.input_preprocessor.embeddings.weight': (262, 768),
        'perceiver.input_preprocessor.position_embeddings.weight': (2048, 768),
        'perceiver.decoder.output_position_encodings.position_embeddings': (
          2048,
          768,
        ),
        'perceiver.decoder.decoding_cross_attention.attention.self.query'
        '.weight': (256, 768),
        'embedding_decoder.bias': (262,),
      },
    ),
    (
      presets.perceiver_io_imagenet_learned,
      141,
      141,
      62_255_848,
      {
        'perceiver.input_preprocessor.convnet_1x1.weight': (256, 3, 1, 1),
        'perceiver.input_preprocessor.convnet_1x1.bias': (256,),
        'perceiver.input_preprocessor.position_embeddings'
        '.position_embeddings': (50176, 256),
        'perceiver.input_preprocessor.positions_projection.bias': (256,),
      },
    ),
    (
      presets.perceiver_io_imagenet_fourier,
      136,
      136,
      48_440_627,
      {
        'perceiver.decoder.decoder.output_position_encodings'
        '.position_embeddings': (1, 1024),
        'perceiver.decoder.decoder.final_layer.weight': (1000, 1024),
      },
    ),
    (
      presets.perceiver_io_imagenet_conv,
      142,
      139 + 6,
      48_646_522,
      {
        _KERNEL: (64, 3, 7, 7),
        'perceiver.input_preprocessor.convnet.batchnorm.running_mean': (64,),
        'perceiver.input_preprocessor.convnet.batchnorm.weight': (64,),
      },
    ),
    (
      presets.perceiver_io_optical_flow,
      425,
      425,
      41_057_134,
      {
        'perceiver.input_preprocessor.conv_after_patches.weight': (64, 54),
        'perceiver.decoder.decoder.final_layer.weight': (2, 322),
      },
    ),
    (
      presets.perceiver_io_kinetics_autoencoding,
      183,
      183,
      19_858_855,
      {
        'perceiver.input_preprocessor.padding.audio': (1, 303),
        'perceiver.input_preprocessor.padding.image': (1, 461),
        'perceiver.input_preprocessor.mask.label': (1, 704),
        'perceiver.decoder.modalities.label.decoder.output_position_encodings'
        '.position_embeddings': (1, 1024),
        'perceiver.decoder.padding.label': (1, 2),
        'perceiver.decoder.decoder.final_layer.weight': (512, 1026),
        'perceiver.output_postprocessor.modalities.audio.classifier.weight': (
          16,
          512,
        ),
      },
    ),
  ],
)
def test_published_models_have_the_names_and_counts_of_others(
  preset, num_theirs, num_deepmind, num_params, names
):
  config = preset()
  zeros = {
    key: np.broadcast_to(np.zeros((), array.dtype), array.shape)
    for key, array in flat.expected(config).items()
  }
  params, state = flat.unflatten(zeros)
  assert perceiver_jax.count_params(config) == num_params
  state_dict = huggingface.to_huggingface(params, state, config)
  assert len(state_dict) == num_theirs
  for name, shape in names.items():
    assert state_dict[name].shape == shape
  trees = deepmind.to_deepmind(params, state, config)
  assert len(jax.tree.leaves(trees)) == num_deepmind


def test_semantics_of_the_code_of_others_go_into_the_config(saved, tmp_path):
  theirs, back = tmp_path / 'theirs.safetensors', tmp_path / 'back.safetensors'
  _convert(saved, theirs, '--to=huggingface')
  arguments = [theirs, back, '--from=huggingface', '--preset=tiny']
  _convert(*arguments, '--semantics=deepmind')
  assert perceiver_jax.load_pretrained(back).config == _config()
  _convert(*arguments, '--semantics=huggingface')
  config = perceiver_jax.load_pretrained(back).config
  assert config.inputs.embedding.padding is StemPadding.SYMMETRIC
  for block in (
    config.cross_attend,
    config.self_attend,
    config.decoder.cross_attend,
  ):
    assert block.gelu is Gelu.EXACT


def test_semantics_change_what_the_presets_say_and_no_more():
  learned = presets.perceiver_io_imagenet_learned()
  theirs = huggingface.as_huggingface(learned)
  assert not learned.decoder.cross_attend.use_query_residual
  assert theirs.decoder.cross_attend.use_query_residual
  changed = dict(theirs.leaves()).items() - dict(learned.leaves()).items()
  assert {path for path, _ in changed} == {
    'cross_attend.gelu',
    'self_attend.gelu',
    'decoder.cross_attend.gelu',
    'decoder.cross_attend.use_query_residual',
  }
  flow = huggingface.as_huggingface(presets.perceiver_io_optical_flow())
  assert flow.outputs.flow_scale == 1.0
  assert not flow.decoder.cross_attend.use_query_residual


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--from=deepmind'], '--preset must be given with --from'),
    (['--from=deepmind', '--preset=tinier'], "invalid choice: 'tinier'"),
    (['--from=torch', '--preset=tiny'], "invalid choice: 'torch'"),
    (['--preset=tiny'], 'one of the arguments --from --to is required'),
    (['--to=deepmind', '--from=deepmind'], 'not allowed with argument'),
    (['--to=deepmind', '--preset=tiny'], '--preset must be left out with --to'),
    (
      ['--from=deepmind', '--preset=tiny', '--conv_kernels=torch'],
      '--conv_kernels must be left out with --from=deepmind',
    ),
    (
      ['--from=deepmind', '--preset=tiny', '--semantics=deepmind'],
      '--semantics must be left out with --from=deepmind',
    ),
    (
      ['--to=huggingface', '--semantics=huggingface'],
      '--semantics must be left out with --to=huggingface',
    ),
  ],
)
def test_option_that_is_wrong_or_of_no_use_is_refused(
  saved, tmp_path, capsys, arguments, message
):
  with pytest.raises(SystemExit):
    _convert(saved, tmp_path / 'new.safetensors', *arguments)
  assert message in capsys.readouterr().err
  assert not (tmp_path / 'new.safetensors').exists()


def _missing(path, arrays):
  del arrays['perceiver.embeddings.latents']
  save_file(arrays, path)
  return 'perceiver.embeddings.latents is missing'


def _surplus(path, arrays):
  arrays['perceiver.surplus.weight'] = np.zeros(2)
  save_file(arrays, path)
  return 'perceiver.surplus.weight is left over'


def _wrong_shape(path, arrays):
  arrays[_KERNEL] = arrays[_KERNEL][:, :, :5]
  save_file({k: np.ascontiguousarray(a) for k, a in arrays.items()}, path)
  return rf'{_KERNEL} must be float32 of shape \(4, 3, 7, 7\), .*\(4, 3, 5, 7'


def _half(path, arrays):
  arrays[_KERNEL] = arrays[_KERNEL].astype(np.float16)
  save_file(arrays, path)
  return f'{_KERNEL} must be float32 .* got float16'


def _truncated(path, arrays):
  del arrays
  path.write_bytes(path.read_bytes()[:-1])
  return 'must be a complete safetensors file'


def _pickled(path, arrays):
  del arrays
  path.write_bytes(b'\x80\x04}.')
  return 'must be a complete safetensors file'


@pytest.mark.parametrize(
  'damage', [_missing, _surplus, _wrong_shape, _half, _truncated, _pickled]
)
def test_bad_state_dict_ends_with_a_line_that_names_the_file(
  saved, tmp_path, damage
):
  theirs, new = tmp_path / 'theirs.safetensors', tmp_path / 'new.safetensors'
  _convert(saved, theirs, '--to=huggingface')
  message = damage(theirs, load_file(theirs))
  with pytest.raises(SystemExit, match=f'^ValueError: {theirs} .*{message}'):
    _convert(theirs, new, '--from=huggingface', '--preset=tiny')
  assert not new.exists()


def test_pickle_of_another_model_ends_with_a_line_that_names_it(
  saved, tmp_path
):
  theirs, new = tmp_path / 'theirs.pickle', tmp_path / 'new.safetensors'
  _convert(saved, theirs, '--to=deepmind')
  preset = '--preset=perceiver_io_imagenet_conv'
  message = rf'{theirs} must hold the 145 arrays \(48,646,780 numbers\) .*more'
  with pytest.raises(SystemExit, match=f'^ValueError: {message}'):
    _convert(theirs, new, '--from=deepmind', preset)
  assert not new.exists()


def test_state_dict_of_a_suffix_that_says_nothing_is_refused(saved, tmp_path):
  with pytest.raises(SystemExit, match=r'must end in \.bin, \.pt or'):
    _convert(saved, tmp_path / 'model.pth', '--to=huggingface')


def test_pytorch_file_says_that_it_needs_pytorch(saved, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  message = 'ImportError: PyTorch must be installed for .*model.bin'
  with pytest.raises(SystemExit, match=message):
    _convert(saved, tmp_path / 'model.bin', '--to=huggingface')


@pytest.mark.parametrize('version', ['2.5.1+cu124', '1.13.0', '2.5.0a0+git1'])
def test_pytorch_that_a_file_can_make_run_anything_is_refused(
  saved, tmp_path, monkeypatch, version
):
  torch = types.SimpleNamespace(__version__=version)
  monkeypatch.setitem(sys.modules, 'torch', torch)
  path = tmp_path / 'model.bin'
  path.write_bytes(b'')
  message = (
    f'ImportError: PyTorch must be 2.6 or later to read {path}, .* '
    f'got {re.escape(version)}'
  )
  with pytest.raises(SystemExit, match=message):
    _convert(path, tmp_path / 'new', '--from=huggingface', '--preset=tiny')


@pytest.mark.parametrize('convert', ['to_deepmind', 'to_huggingface'])
def test_model_that_others_do_not_have_is_refused(convert):
  module = {'to_deepmind': deepmind, 'to_huggingface': huggingface}[convert]
  config = presets.perceiver_io_language_glue()
  weights = flat.unflatten(flat.expected(config))
  with pytest.raises(ValueError, match='names, got 2 that have none: .*head/b'):
    getattr(module, convert)(*weights, config)


def test_original_perceiver_is_none_of_hugging_face():
  config = _config()
  config.decoder = AverageDecoder()
  with pytest.raises(ValueError, match='config must describe a Perceiver IO'):
    huggingface.from_huggingface({}, config)


def test_command_runs_as_the_documentation_says(tmp_path):
  command_line = [
    *('-m', 'perceiver_jax.weights', 'convert'),
    *('nothing.pickle', 'model.safetensors'),
    *('--from=deepmind', '--preset=perceiver_io_imagenet_fourier'),
  ]
  done = subprocess.run(
    [sys.executable, *command_line],
    cwd=tmp_path,
    env=os.environ | {'PYTHONPATH': str(_ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  assert done.stderr.startswith('FileNotFoundError')
  assert done.stderr.count('\n') == 1
  assert 'nothing.pickle' in done.stderr


def test_commands_of_the_documentation_are_right():
  parser, convert = command._parsers()
  commands = re.findall(r'^python -m perceiver_jax.weights (.*)', _DOCS, re.M)
  assert len(commands) == 7
  for line in commands:
    command._check(convert, parser.parse_args(shlex.split(line)))
  named = re.findall(r'`(perceiver_io_\w+)`', _DOCS)
  assert len(set(named)) == 6
  assert set(named) <= command._PRESETS.keys()


def _save_random(path, config):
  perceiver_jax.save_pretrained(path, config, *_weights(config))


@pytest.mark.slow
@pytest.mark.usefixtures('same_precision')
def test_python_of_the_documentation_runs_at_full_size(tmp_path, monkeypatch):
  image = pytest.importorskip('PIL.Image')
  pytest.importorskip('transformers')
  monkeypatch.chdir(tmp_path)
  _save_random('language.safetensors', presets.perceiver_io_language_bytes())
  _save_random('fourier.safetensors', presets.perceiver_io_imagenet_fourier())
  _save_random('flow.safetensors', presets.perceiver_io_optical_flow())
  image.new('RGB', (640, 480), 'red').save('000000039769.png')
  image.new('RGB', (1024, 436), 'red').save('sintel.png')
  _, text_check, image_check, flow_check = re.findall(
    r'```python\n(.*?)```', _DOCS, re.DOTALL
  )
  names = {}
  exec(text_check, names)
  assert names['logits'].shape == (1, 2048, 262)
  assert names['tokenizer'].decode(names['ids'][:60]) == names['text'][:51]
  assert names['text'][51:] == ' missing.'
  exec(image_check, names)
  assert names['logits'].shape == (1, 1000)
  # Red by the mean and standard deviation of ImageNet.
  np.testing.assert_allclose(
    names['images'][0, 5, 5], [2.249, -2.036, -1.804], atol=0.03
  )
  exec(flow_check, names)
  assert names['flow'].shape == (1, 368, 496, 2)
  np.testing.assert_array_equal(names['frame'][0, 0], [1, -1, -1])
  for path in tmp_path.glob('*.safetensors'):
    path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
  'name',
  [
    'perceiver_io_language_bytes',
    'perceiver_io_imagenet_learned',
    'perceiver_io_imagenet_fourier',
    'perceiver_io_imagenet_conv',
    'perceiver_io_optical_flow',
    'perceiver_io_kinetics_autoencoding',
  ],
)
def test_files_of_full_size_survive_every_way(tmp_path, name):
  config = getattr(presets, name)()
  weights = _weights(config)
  first, second = (
    tmp_path / 'first.safetensors',
    tmp_path / 'second.safetensors',
  )
  theirs = {
    'deepmind': tmp_path / 'theirs.pickle',
    'huggingface': tmp_path / 'theirs.safetensors',
  }
  perceiver_jax.save_pretrained(first, config, *weights)
  for other, path in theirs.items():
    _convert(first, path, f'--to={other}')
    first.unlink()
    _convert(path, second, f'--from={other}', f'--preset={name}')
    path.unlink()
    first, second = second, first
  loaded = perceiver_jax.load_pretrained(first)
  assert loaded.config == config
  _assert_same((loaded.params, loaded.state), weights)
  first.unlink()
