"""The state dicts of Hugging Face's PyTorch Perceivers, and ours.

The six classes of `transformers` that have published weights: `PerceiverFor`
MaskedLM, ImageClassificationLearned, -Fourier and -ConvProcessing, OpticalFlow,
MultimodalAutoencoding. Which one a config is, its modalities say.

Their models compute something else of the same weights, here and there;
`as_huggingface` says where.

Source: `transformers` 5.23.0, `models/perceiver`.
"""

import enum
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from perceiver_jax.arrays import Params, State
from perceiver_jax.modalities.flow import FlowInput, FlowOutput
from perceiver_jax.modalities.image import (
  ConvEmbedding,
  ImageInput,
  StemPadding,
)
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.modalities.multimodal import (
  MultimodalInput,
  MultimodalOutput,
)
from perceiver_jax.modalities.text import TextInput, TextOutput
from perceiver_jax.model import AverageDecoder, PerceiverConfig
from perceiver_jax.nn.blocks import Gelu
from perceiver_jax.weights import files, flat
from perceiver_jax.weights.mapping import Pair, Row, pairs, to_ours, to_theirs
from perceiver_jax.weights.state_dicts import read_state_dict, write_state_dict

_ATTEND = (
  ('attention.self.query', 'attention/query'),
  ('attention.self.key', 'attention/key'),
  ('attention.self.value', 'attention/value'),
  ('attention.output.dense', 'attention/output'),
  ('layernorm', 'mlp_norm'),
  ('mlp.dense1', 'mlp_hidden'),
  ('mlp.dense2', 'mlp_output'),
)
_CROSS_ATTEND = (
  *_ATTEND,
  ('attention.self.layernorm1', 'query_norm'),
  ('attention.self.layernorm2', 'input_norm'),
)
_SELF_ATTEND = (*_ATTEND, ('attention.self.layernorm1', 'norm'))
_NAMES = {'w': 'weight', 'b': 'bias', 'scale': 'weight', 'offset': 'bias'}

_INPUTS = 'perceiver.input_preprocessor'
_OUTPUTS = 'perceiver.output_postprocessor.modalities'
_BATCH_NORM = f'{_INPUTS}.convnet.batchnorm'
_STEPS = f'{_BATCH_NORM}.num_batches_tracked'
# Of the running averages, they keep the average alone. We also keep the sum it
# is made of, and how many batches that has seen: after many, both are the same.
_SUMS = ('hidden', 'counter')
_MANY = 100_000


class ConvKernels(enum.Enum):
  """How the kernels of convolutions lie in a file.

  TORCH: [out, in, rows, columns], as PyTorch uses them. SCRIPT: [out, in,
  columns, rows], as the script that made the published files of DeepMind's
  wrote them; which of the two those files hold has not been checked here.
  The values are the axes of ours, [rows, columns, in, out], in that order.
  """

  TORCH = (3, 2, 0, 1)
  SCRIPT = (3, 2, 1, 0)


def as_huggingface(config: PerceiverConfig) -> PerceiverConfig:
  """Returns a config of what Hugging Face's code computes of its weights.

  It differs from the published models, which were trained as the presets say:
  GELU is exact; the decoder of labels always adds its query to what it reads;
  the convolutional stem pads symmetrically; flow is not multiplied by 20.
  """
  config = config.copy()
  blocks = [config.cross_attend, config.self_attend]
  if not isinstance(config.decoder, AverageDecoder):
    blocks.append(config.decoder.cross_attend)
    if isinstance(config.outputs, LabelOutput):
      config.decoder.cross_attend.use_query_residual = True
  for block in blocks:
    block.gelu = Gelu.EXACT
  if isinstance(config.inputs, ImageInput) and isinstance(
    config.inputs.embedding, ConvEmbedding
  ):
    config.inputs.embedding.padding = StemPadding.SYMMETRIC
  if isinstance(config.outputs, FlowOutput):
    config.outputs.flow_scale = 1.0
  return config


def load_huggingface(
  path: files.Path,
  config: PerceiverConfig,
  conv_kernels: ConvKernels = ConvKernels.TORCH,
) -> tuple[Params, State]:
  """Reads a state dict; see `read_state_dict` and `from_huggingface`.

  Raises:
    ValueError: the file is refused, or holds another model; the message names
      the file.
    OSError: there is no such file, or it cannot be read.
    ImportError: it needs PyTorch, which is not installed or before 2.6.
  """
  arrays = read_state_dict(path)
  return _from_huggingface(f'{path}', arrays, config, conv_kernels)


def save_huggingface(
  path: files.Path,
  config: PerceiverConfig,
  params: Params,
  state: State,
  conv_kernels: ConvKernels = ConvKernels.TORCH,
) -> None:
  """Writes a state dict; the inverse of `load_huggingface`.

  Raises:
    ValueError: the weights are not those of the config, or it describes no
      model that Hugging Face has.
    OSError: the file cannot be written.
    ImportError: it needs PyTorch, which is not installed.
  """
  arrays = to_huggingface(params, state, config, conv_kernels)
  write_state_dict(path, arrays)


def from_huggingface(
  state_dict: Mapping[str, Any],
  config: PerceiverConfig,
  conv_kernels: ConvKernels = ConvKernels.TORCH,
) -> tuple[Params, State]:
  """Renames and turns the arrays of a state dict to those of this package.

  Args:
    state_dict: NumPy arrays by their names in PyTorch.
    config: describes the model they belong to.
    conv_kernels: how kernels of convolutions lie in it.

  Returns:
    The parameters and state of `perceiver_jax.build_with_state(config)`.

  Raises:
    ValueError: arrays are missing, left over or of a wrong shape or dtype, all
      listed; or the config describes no model that Hugging Face has.
  """
  return _from_huggingface('state_dict', state_dict, config, conv_kernels)


def to_huggingface(
  params: Params,
  state: State,
  config: PerceiverConfig,
  conv_kernels: ConvKernels = ConvKernels.TORCH,
) -> dict[str, np.ndarray]:
  """Returns the state dict of a model; the inverse of `from_huggingface`.

  Of batch statistics, sums are lost, which only training needs.
  """
  arrays = flat.flatten(params, state)
  flat.check('params and state', arrays, flat.expected(config))
  kept = {key: np.asarray(a) for key, a in arrays.items() if not _is_sum(key)}
  state_dict = to_theirs('params and state', kept, _pairs(config, conv_kernels))
  if state:
    state_dict[_STEPS] = np.array(_MANY, np.int64)
  return state_dict


def _from_huggingface(
  subject: str,
  state_dict: Mapping[str, Any],
  config: PerceiverConfig,
  conv_kernels: ConvKernels,
) -> tuple[Params, State]:
  kept = dict(state_dict)
  if config.inputs.has_state:
    kept.pop(_STEPS, None)  # Files of random weights say 0.
  arrays = to_ours(subject, kept, _pairs(config, conv_kernels))
  for key in list(arrays):
    if key.endswith('/average'):
      average = key.removesuffix('average')
      arrays[f'{average}hidden'] = arrays[key]
      arrays[f'{average}counter'] = np.array(_MANY, np.int32)
  return flat.unflatten(arrays)


def _is_sum(key: str) -> bool:
  return key.startswith('state/') and key.rsplit('/', 1)[1] in _SUMS


def _pairs(config: PerceiverConfig, conv_kernels: ConvKernels) -> list[Pair]:
  if isinstance(config.decoder, AverageDecoder):
    raise ValueError(
      'config must describe a Perceiver IO, whose decoder attends, as Hugging '
      'Face has no other, got an AverageDecoder.'
    )

  def publish(
    ours: str, array: jax.ShapeDtypeStruct, row: Row
  ) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    name = ours.rsplit('/', 1)[1]
    theirs, shape = row.theirs, array.shape
    if ours.split('/', 1)[1] != row.ours:
      theirs = f'{theirs}.{_NAMES[name]}'
    axes = tuple(range(len(shape)))
    if name == 'w':
      axes = conv_kernels.value if len(shape) == 4 else (1, 0)
      shape = tuple(shape[axis] for axis in axes) + (1,) * row.unit_axes
    elif len(shape) == 4:  # Batch normalisation.
      shape = shape[-1:]
    return theirs, shape, axes

  arrays = flat.expected(config)
  kept = {key: array for key, array in arrays.items() if not _is_sum(key)}
  return pairs(kept, _rows(config), publish)


def _rows(config: PerceiverConfig) -> Iterator[Row]:
  yield from _input_rows(config)
  yield Row('perceiver.embeddings.latents', 'encoder/latents')
  encoder = 'perceiver.encoder'
  yield from _layer(
    f'{encoder}.cross_attention', 'encoder/cross_attend', _CROSS_ATTEND
  )
  for i in range(config.num_self_attends_per_block):
    yield from _layer(
      f'{encoder}.self_attends.{i}', f'processor/self_attend_{i}', _SELF_ATTEND
    )
  yield from _output_rows(config)


def _input_rows(config: PerceiverConfig) -> Iterator[Row]:
  if isinstance(config.inputs, ImageInput):
    yield Row(f'{_INPUTS}.convnet_1x1', 'inputs/embedding')
    yield Row(f'{_INPUTS}.convnet_1x1.weight', 'inputs/embedding/w', 2)
    yield Row(f'{_INPUTS}.convnet.conv', 'inputs/stem/convolution')
    norm = 'inputs/stem/batch_norm'
    yield Row(_BATCH_NORM, norm)
    for kind in ('mean', 'var'):
      theirs = f'{_BATCH_NORM}.running_{kind}'
      yield Row(theirs, f'{norm}/~/{kind}_ema/average')
    positions = f'{_INPUTS}.position_embeddings.position_embeddings'
    yield Row(positions, 'inputs/positions')
    yield Row(f'{_INPUTS}.positions_projection', 'inputs/projection')
  if isinstance(config.inputs, TextInput):
    yield Row(f'{_INPUTS}.embeddings.weight', 'inputs/embeddings')
    yield Row(f'{_INPUTS}.position_embeddings.weight', 'inputs/positions')
  if isinstance(config.inputs, FlowInput):
    yield Row(f'{_INPUTS}.conv_after_patches', 'inputs/embedding')
  if isinstance(config.inputs, MultimodalInput):
    for name in config.inputs.modalities:
      yield Row(f'{_INPUTS}.padding.{name}', f'inputs/{name}_padding')
      yield Row(f'{_INPUTS}.mask.{name}', f'inputs/{name}_mask_token')


def _output_rows(config: PerceiverConfig) -> Iterator[Row]:
  outer, inner = 'perceiver.decoder', 'perceiver.decoder.decoder'
  positions = 'output_position_encodings.position_embeddings'
  attention = 'decoding_cross_attention'
  if isinstance(config.outputs, TextOutput):
    yield Row('embedding_decoder.bias', 'outputs/bias')
    yield Row(f'{outer}.{positions}', 'decoder/queries')
    inner = outer
  if isinstance(config.outputs, LabelOutput):
    yield Row(f'{inner}.{positions}', 'decoder/query')
    yield Row(f'{inner}.final_layer', 'outputs/logits')
  if isinstance(config.outputs, FlowOutput):
    yield Row(f'{inner}.final_layer', 'outputs/flow')
  if isinstance(config.outputs, MultimodalOutput):
    yield Row(f'{inner}.final_layer', 'outputs/projection')
    for name in config.outputs.modalities:
      yield Row(f'{outer}.padding.{name}', f'decoder/{name}_padding')
    label = f'{outer}.modalities.label.decoder.{positions}'
    yield Row(label, 'decoder/label/query')
    yield Row(f'{_OUTPUTS}.audio.classifier', 'outputs/audio/samples')
    yield Row(f'{_OUTPUTS}.image.classifier', 'outputs/image/pixels')
    yield Row(f'{_OUTPUTS}.label.classifier', 'outputs/label/logits')
  yield from _layer(
    f'{inner}.{attention}', 'decoder/cross_attend', _CROSS_ATTEND
  )


def _layer(
  theirs: str, ours: str, template: tuple[tuple[str, str], ...]
) -> Iterator[Row]:
  for their_part, our_part in template:
    yield Row(f'{theirs}.{their_part}', f'{ours}/{our_part}')
