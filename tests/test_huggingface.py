"""Models against Hugging Face's PyTorch implementation, live.

Random weights, in both directions of the conversion: in small models, and in
those of the published sizes. Needs the extra `[parity]`.
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import perceiver_jax
from perceiver_jax import presets
from perceiver_jax.modalities.audio import AudioInput, AudioOutput
from perceiver_jax.modalities.flow import FlowInput, FlowOutput
from perceiver_jax.modalities.image import (
  Conv1x1Embedding,
  ConvEmbedding,
  FourierPositions,
  ImageInput,
  LearnedPositions,
  StemPadding,
)
from perceiver_jax.modalities.label import LabelInput, LabelOutput
from perceiver_jax.modalities.multimodal import (
  MultimodalInput,
  MultimodalOutput,
)
from perceiver_jax.modalities.text import TextInput, TextOutput
from perceiver_jax.modalities.video import VideoInput, VideoOutput
from perceiver_jax.model import AttentionDecoder, PerceiverConfig
from perceiver_jax.nn.blocks import CrossAttendConfig, Gelu, SelfAttendConfig
from perceiver_jax.weights.huggingface import (
  as_huggingface,
  from_huggingface,
  load_huggingface,
  save_huggingface,
  to_huggingface,
)

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
safetensors_torch = pytest.importorskip('safetensors.torch')

# The smallest that their code allows; what is larger there is fixed in it.
_SIZES = {
  'num_latents': 6,
  'd_latents': 16,
  'num_blocks': 2,
  'num_self_attends_per_block': 2,
  'num_self_attention_heads': 4,
  'num_cross_attention_heads': 1,
  'num_labels': 5,
}


def _config(inputs, outputs, query_channels, *, use_query_residual=True):
  """Describes a model as the presets do; `_SIZES` in our words."""
  return PerceiverConfig(
    inputs=inputs,
    outputs=outputs,
    num_latents=6,
    latent_channels=16,
    num_blocks=2,
    num_self_attends_per_block=2,
    self_attend=SelfAttendConfig(num_heads=4),
    decoder=AttentionDecoder(
      query_channels=query_channels,
      cross_attend=CrossAttendConfig(use_query_residual=use_query_residual),
    ),
  )


def _normal(*shape):
  return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def _channels_first(images):
  return torch.from_numpy(np.moveaxis(images, -1, -3).copy())


def _images(*shape):
  """Returns what our model takes and what theirs does, like the next three."""
  images = _normal(*shape, 3)
  return {'inputs': images}, {'inputs': _channels_first(images)}


def _ids(lengths, max_length):
  shape = len(lengths), max_length
  ids = np.random.default_rng(1).integers(0, 262, shape)
  # Their decoder knows no mask: what is padding has outputs too.
  mask = np.arange(max_length) < np.array(lengths)[:, None]
  return {'inputs': ids, 'input_mask': mask}, {
    'inputs': torch.from_numpy(ids),
    'attention_mask': torch.from_numpy(mask.astype(np.int64)),
  }


def _frames(height, width):
  frames = _normal(1, 2, height, width, 3)
  # They leave it to the caller to find the pixels around each pixel.
  padded = np.pad(frames, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
  around = [
    padded[:, :, dy : dy + height, dx : dx + width]
    for dy in range(3)
    for dx in range(3)
  ]
  theirs = {'inputs': _channels_first(np.concatenate(around, axis=-1))}
  return {'inputs': frames}, theirs


def _clip(num_samples, video_size, num_classes):
  inputs = {
    'audio': _normal(1, num_samples, 1),
    'image': _normal(1, *video_size, 3),
    'label': _normal(1, num_classes),
  }
  num_pixels = np.prod(video_size)
  queries = {
    'audio': np.arange(1, num_samples // 16, 3),
    'image': np.arange(7, num_pixels, num_pixels // 99),
  }
  theirs = {
    'inputs': {
      'audio': torch.from_numpy(inputs['audio']),
      'image': _channels_first(inputs['image']),
      'label': torch.from_numpy(inputs['label']),
    },
    'subsampled_output_points': {
      **{name: torch.from_numpy(array) for name, array in queries.items()},
      'label': None,
    },
  }
  return {'inputs': inputs, 'queries': queries | {'label': None}}, theirs


def _fourier():
  positions = FourierPositions(num_bands=64, max_resolution=(224, 224))
  config = _config(
    ImageInput(positions=positions), LabelOutput(num_classes=5), 16
  )
  return config, {}, _images(2, 10, 12)


def _learned():
  config = _config(
    ImageInput(
      embedding=Conv1x1Embedding(channels=256),
      positions=LearnedPositions(grid=(7, 7), num_channels=256),
      position_projection=256,
    ),
    LabelOutput(num_classes=5),
    16,
    use_query_residual=False,
  )
  return config, {'image_size': 7}, _images(2, 7, 7)


def _conv():
  positions = FourierPositions(num_bands=64, max_resolution=(56, 56))
  config = _config(
    ImageInput(embedding=ConvEmbedding(channels=64), positions=positions),
    LabelOutput(num_classes=5),
    16,
  )
  return config, {}, _images(2, 24, 33)


def _text():
  attention = {'num_heads': 8, 'qk_channels': 32, 'v_channels': 16}
  config = _config(
    TextInput(max_length=20, embedding_channels=24),
    TextOutput(max_length=20),
    24,
  )
  config.cross_attend = CrossAttendConfig(**attention)
  config.self_attend = SelfAttendConfig(**attention)
  config.decoder.cross_attend = CrossAttendConfig(
    num_heads=8, qk_channels=256, v_channels=24, use_query_residual=False
  )
  sizes = {
    'd_model': 24,
    'qk_channels': 32,
    'v_channels': 16,
    'max_position_embeddings': 20,
    'num_self_attention_heads': 8,
    'num_cross_attention_heads': 8,
  }
  return config, sizes, _ids([20, 13], 20)


def _flow():
  positions = FourierPositions(num_bands=64, max_resolution=(6, 8))
  config = _config(
    FlowInput(positions=positions), FlowOutput(), None, use_query_residual=False
  )
  return config, {'train_size': [6, 8]}, _frames(6, 8)


def _multimodal():
  audio = FourierPositions(num_bands=192, max_resolution=(96,))
  video = FourierPositions(num_bands=32, max_resolution=(2, 8, 8))
  config = _config(
    MultimodalInput(
      modalities={
        'audio': AudioInput(num_samples=96, positions=audio),
        'image': VideoInput(patch_size=(1, 4, 4), positions=video),
        'label': LabelInput(num_classes=5),
      },
      mask_probs={'audio': 0.0, 'image': 0.0, 'label': 1.0},
      masked_in_evaluation=('label',),
    ),
    MultimodalOutput(
      modalities={
        'audio': AudioOutput(num_samples=96, positions=audio),
        'image': VideoOutput(size=(2, 32, 32), positions=video),
        'label': LabelOutput(num_classes=5),
      },
      projected_channels=12,
    ),
    1026,
    use_query_residual=False,
  )
  sizes = {
    'num_frames': 2,
    'audio_samples_per_frame': 48,
    'image_size': 8,
    'output_shape': [1, 2, 32, 32],
    'output_num_channels': 12,
  }
  return config, sizes, _clip(96, (2, 32, 32), 5)


_CASES = {
  'ImageClassificationFourier': _fourier,
  'ImageClassificationLearned': _learned,
  'ImageClassificationConvProcessing': _conv,
  'MaskedLM': _text,
  'OpticalFlow': _flow,
  'MultimodalAutoencoding': _multimodal,
}
every_class = pytest.mark.parametrize('name', _CASES)

_IMAGENET = {
  'num_latents': 512,
  'd_latents': 1024,
  'num_blocks': 8,
  'num_self_attends_per_block': 6,
  'num_self_attention_heads': 8,
  'num_labels': 1000,
}


def _flow_of_small_frames():
  """Returns the preset for a sixteenth of the pixels, to save minutes."""
  config = presets.perceiver_io_optical_flow()
  config.inputs.positions.max_resolution = (92, 124)
  return config


# The presets, the sizes of the published models, and inputs of full size.
_PUBLISHED = {
  'ImageClassificationFourier': lambda: (
    presets.perceiver_io_imagenet_fourier(),
    _IMAGENET,
    _images(1, 224, 224),
  ),
  'ImageClassificationLearned': lambda: (
    presets.perceiver_io_imagenet_learned(),
    _IMAGENET | {'image_size': 224},
    _images(1, 224, 224),
  ),
  'ImageClassificationConvProcessing': lambda: (
    presets.perceiver_io_imagenet_conv(),
    _IMAGENET,
    _images(1, 224, 224),
  ),
  'MaskedLM': lambda: (
    presets.perceiver_io_language_bytes(),
    {
      'num_latents': 256,
      'd_latents': 1280,
      'd_model': 768,
      'num_blocks': 1,
      'num_self_attends_per_block': 26,
      'num_self_attention_heads': 8,
      'num_cross_attention_heads': 8,
      'qk_channels': 256,
      'v_channels': 1280,
    },
    _ids([700], 2048),
  ),
  'OpticalFlow': lambda: (
    _flow_of_small_frames(),
    {
      'train_size': [92, 124],
      'num_latents': 2048,
      'd_latents': 512,
      'num_blocks': 1,
      'num_self_attends_per_block': 24,
      'num_self_attention_heads': 16,
    },
    _frames(92, 124),
  ),
  'MultimodalAutoencoding': lambda: (
    presets.perceiver_io_kinetics_autoencoding(),
    {
      'num_latents': 784,
      'd_latents': 512,
      'num_blocks': 1,
      'num_self_attends_per_block': 8,
      'num_self_attention_heads': 8,
      'num_labels': 700,
    },
    _clip(30_720, (16, 224, 224), 700),
  ),
}


class _Case:
  """One of their classes and ours, with inputs for each."""

  def __init__(self, name, cases=_CASES):
    self._class = getattr(transformers, f'PerceiverFor{name}')
    published, self._sizes, inputs = cases[name]()
    self._inputs, self._their_inputs = inputs
    self.config = as_huggingface(published)
    perceiver = perceiver_jax.build_with_state(self.config)

    def loss(params, state):
      outputs, _ = perceiver.apply(params, state, None, **self._inputs)
      outputs = _by_name(outputs)
      return sum(jnp.mean(a**2) for a in outputs.values()), outputs

    self._gradient = jax.jit(jax.grad(loss, has_aux=True))

  def make_theirs(self, state_dict=None):
    """Returns their model with these weights, or with its own random ones."""
    torch.manual_seed(0)
    config = transformers.PerceiverConfig(**_SIZES | self._sizes)
    theirs = self._class(config).eval()
    if state_dict is not None:
      tensors = {key: torch.tensor(array) for key, array in state_dict.items()}
      theirs.load_state_dict(tensors, strict=True)
    return theirs

  def compute(self, params, state):
    """Returns our outputs by name, and the gradient of their mean square."""
    with jax.default_matmul_precision('highest'):
      grads, outputs = self._gradient(params, state)
    return outputs, grads

  def compute_outputs(self, config, params, state):
    """Returns our outputs by name, of this or another config."""
    apply = jax.jit(perceiver_jax.build_with_state(config).apply)
    with jax.default_matmul_precision('highest'):
      return _by_name(apply(params, state, None, **self._inputs)[0])

  def compute_theirs(self, theirs):
    """Returns their outputs, and gradients by the names of parameters."""
    outputs = _by_name(theirs(**self._their_inputs).logits)
    sum((a**2).mean() for a in outputs.values()).backward()
    grads = {
      name: np.zeros(p.shape, np.float32) if p.grad is None else p.grad.numpy()
      for name, p in theirs.named_parameters()
    }
    return {k: a.detach().numpy() for k, a in outputs.items()}, grads

  def compute_their_outputs(self, theirs):
    with torch.no_grad():
      outputs = _by_name(theirs(**self._their_inputs).logits)
    return {key: array.numpy() for key, array in outputs.items()}


@functools.cache
def _case(name):
  return _Case(name)


def _by_name(outputs):
  return outputs if isinstance(outputs, dict) else {'': outputs}


def _random_weights(config):
  """Draws weights far from those of an initialisation."""
  shapes = jax.eval_shape(
    perceiver_jax.build_with_state(config).init,
    jax.random.key(0),
    config.inputs.example(),
  )
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    values = rng.normal(size=leaf.shape)
    name = path[-1].key
    if name in ('scale', 'average', 'hidden'):
      values = np.exp(0.3 * values)
    elif name == 'w':
      values /= np.sqrt(np.prod(leaf.shape[:-1]))
    return values.astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def _distance(actual, expected):
  """Returns the largest error, in standard deviations of `expected`."""
  actual = np.asarray(actual).reshape(expected.shape)
  return np.max(np.abs(actual - expected)) / np.std(expected)


@every_class
def test_their_random_weights_give_their_outputs(name):
  case = _case(name)
  theirs = case.make_theirs()
  state_dict = {key: a.numpy() for key, a in theirs.state_dict().items()}
  outputs, _ = case.compute(*from_huggingface(state_dict, case.config))
  expected = case.compute_their_outputs(theirs)
  assert outputs.keys() == expected.keys()
  for key, array in expected.items():
    # Seen: at most 9e-6, for flow.
    assert _distance(outputs[key], array) < 3e-5


@every_class
def test_our_random_weights_give_their_outputs_and_gradients(name):
  case = _case(name)
  params, state = _random_weights(case.config)
  state_dict = to_huggingface(params, state, case.config)
  outputs, grads = case.compute(params, state)
  expected, their_grads = case.compute_theirs(case.make_theirs(state_dict))
  assert outputs.keys() == expected.keys()
  for key, array in expected.items():
    # Seen: at most 5e-6, for video.
    assert _distance(outputs[key], array) < 3e-5
  buffers = {k: a for k, a in state_dict.items() if k not in their_grads}
  expected, _ = from_huggingface(their_grads | buffers, case.config)
  for module, leaves in expected.items():
    for leaf, gradient in leaves.items():
      # A softmax does not see a shift of its logits.
      if module.endswith('/key') and leaf == 'b':
        continue
      subject = f'{module}/{leaf}'
      if not gradient.any():  # What is masked, or replaced by the mask.
        assert not np.any(grads[module][leaf]), subject
        continue
      # Seen: at most 5e-4, in the queries of a decoder.
      assert _distance(grads[module][leaf], gradient) < 2e-3, subject


def _undo_gelu(config):
  config.cross_attend.gelu = config.self_attend.gelu = Gelu.TANH
  config.decoder.cross_attend.gelu = Gelu.TANH


def _undo_residual(config):
  config.decoder.cross_attend.use_query_residual = False


def _undo_padding(config):
  config.inputs.embedding.padding = StemPadding.SAME


def _undo_scale(config):
  config.outputs.flow_scale = 20.0


@pytest.mark.parametrize(
  ('name', 'undo', 'least'),
  [
    ('MaskedLM', _undo_gelu, 1e-4),
    ('ImageClassificationLearned', _undo_residual, 0.1),
    ('ImageClassificationConvProcessing', _undo_padding, 0.01),
    ('OpticalFlow', _undo_scale, 10.0),
  ],
)
def test_each_switch_is_needed_to_compute_what_they_do(name, undo, least):
  case = _case(name)
  weights = _random_weights(case.config)
  theirs = case.make_theirs(to_huggingface(*weights, case.config))
  config = case.config.copy()
  undo(config)
  outputs = case.compute_outputs(config, *weights)['']
  assert _distance(outputs, case.compute_their_outputs(theirs)['']) > least


@pytest.mark.slow
@pytest.mark.parametrize('name', _PUBLISHED)
def test_presets_of_full_size_give_their_outputs(name):
  case = _Case(name, _PUBLISHED)
  weights = _random_weights(case.config)
  theirs = case.make_theirs(to_huggingface(*weights, case.config))
  outputs = case.compute_outputs(case.config, *weights)
  expected = case.compute_their_outputs(theirs)
  assert outputs.keys() == expected.keys()
  for key, array in expected.items():
    # Seen: at most 7e-6, for video; for flow at full size, by hand, 5e-6.
    assert _distance(outputs[key], array) < 3e-5


def test_file_for_pytorch_is_read_by_it_and_back(tmp_path):
  case = _case('ImageClassificationConvProcessing')
  params, state = _random_weights(case.config)
  for suffix in ('bin', 'safetensors'):
    path = tmp_path / f'model.{suffix}'
    save_huggingface(path, case.config, params, state)
    loaded = load_huggingface(path, case.config)
    jax.tree.map(np.testing.assert_array_equal, loaded[0], params)
    case.make_theirs(
      {
        key: tensor.numpy()
        for key, tensor in (
          torch.load(path, weights_only=True)
          if suffix == 'bin'
          else safetensors_torch.load_file(path)
        ).items()
      }
    )


def test_their_own_files_are_read(tmp_path):
  case = _case('ImageClassificationConvProcessing')
  theirs = case.make_theirs()
  theirs.save_pretrained(tmp_path)
  torch.save(theirs.state_dict(), tmp_path / 'pytorch_model.bin')
  state_dict = {key: a.numpy() for key, a in theirs.state_dict().items()}
  expected = from_huggingface(state_dict, case.config)
  for name in ('model.safetensors', 'pytorch_model.bin'):
    loaded = load_huggingface(tmp_path / name, case.config)
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)


class _Call:
  def __reduce__(self):
    return os.system, ('touch touched',)


@pytest.mark.parametrize('is_zip', [True, False])
def test_malicious_pytorch_file_is_refused(tmp_path, monkeypatch, is_zip):
  monkeypatch.chdir(tmp_path)
  path = tmp_path / 'pytorch_model.bin'
  tree = {'a': torch.zeros(2), 'b': _Call()}
  torch.save(tree, path, _use_new_zipfile_serialization=is_zip)
  with pytest.raises(ValueError, match=f'^{path} must be a state dict'):
    load_huggingface(path, _case('OpticalFlow').config)
  assert not (tmp_path / 'touched').exists()


@pytest.mark.parametrize(
  'content',
  [
    [torch.zeros(2)],
    {'a': 'text'},
    {1: torch.zeros(2)},
    {'a': torch.zeros(2, dtype=torch.bfloat16)},
  ],
)
def test_pytorch_file_of_anything_else_is_refused(tmp_path, content):
  path = tmp_path / 'pytorch_model.bin'
  torch.save(content, path)
  with pytest.raises(ValueError, match=f'^{path} must be a state dict'):
    load_huggingface(path, _case('OpticalFlow').config)


def test_truncated_pytorch_file_is_refused(tmp_path):
  path = tmp_path / 'pytorch_model.bin'
  torch.save({'a': torch.zeros(200)}, path)
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(ValueError, match=f'^{path} must be a state dict'):
    load_huggingface(path, _case('OpticalFlow').config)
