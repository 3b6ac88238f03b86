"""The parameter names of DeepMind's published models, and ours.

One table, read in both directions: rows of `(their name, our name)`. A row
names a module, whose arrays are called the same on both sides, or one array as
`module/array`. The rows of a layer come from a template, as every cross-attend
and every self-attend has the same parts. A row that a config has no use for
does no harm; a parameter without a row is refused.

Source: google-deepmind/deepmind-research `perceiver/` at f5de0ede. Of the
original Perceiver no weights were published; its names are those of the
recorded models in `tests/parity`.
"""

from collections.abc import Iterator

import jax

from perceiver_jax.arrays import Params, State
from perceiver_jax.modalities.audio import AudioOutput
from perceiver_jax.modalities.flow import FlowInput, FlowOutput
from perceiver_jax.modalities.image import Conv1x1Embedding, ImageInput
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.modalities.multimodal import (
  MultimodalInput,
  MultimodalOutput,
)
from perceiver_jax.modalities.text import TextInput, TextOutput
from perceiver_jax.modalities.video import VideoOutput
from perceiver_jax.model import AverageDecoder, PerceiverConfig
from perceiver_jax.weights import files, flat
from perceiver_jax.weights.mapping import Pair, Row, pairs, to_ours, to_theirs
from perceiver_jax.weights.pickles import read_pickle, write_pickle

_ATTEND = (
  ('attention/linear', 'attention/query'),
  ('attention/linear_1', 'attention/key'),
  ('attention/linear_2', 'attention/value'),
  ('attention/linear_3', 'attention/output'),
  ('mlp/linear', 'mlp_hidden'),
  ('mlp/linear_1', 'mlp_output'),
)
_CROSS_ATTEND = (
  *_ATTEND,
  ('layer_norm', 'query_norm'),
  ('layer_norm_1', 'input_norm'),
  ('layer_norm_2', 'mlp_norm'),
)
_SELF_ATTEND = (
  *_ATTEND,
  ('layer_norm', 'norm'),
  ('layer_norm_1', 'mlp_norm'),
)


def load_deepmind(
  path: files.Path, config: PerceiverConfig
) -> tuple[Params, State]:
  """Reads a published pickle; see `read_pickle` and `from_deepmind`.

  Raises:
    ValueError: the file is refused, or holds another model; the message names
      the file.
    OSError: there is no such file, or it cannot be read.
  """
  params, state = read_pickle(path)
  return _from_deepmind(f'{path}', params, state, config)


def save_deepmind(
  path: files.Path, config: PerceiverConfig, params: Params, state: State
) -> None:
  """Writes a pickle like those published; the inverse of `load_deepmind`.

  Raises:
    ValueError: the weights are not those of the config, or it describes no
      model that has published names.
    OSError: the file cannot be written.
  """
  write_pickle(path, *to_deepmind(params, state, config))


def from_deepmind(
  params: Params, state: State, config: PerceiverConfig
) -> tuple[Params, State]:
  """Renames published parameters to the names of this package.

  Args:
    params: under their published names, {module path: {name: array}}.
    state: batch statistics under their published names; {} if there are none.
    config: describes the model they belong to.

  Returns:
    The parameters and state of `perceiver_jax.build_with_state(config)`.

  Raises:
    ValueError: arrays are missing, left over or of a wrong shape or dtype, all
      listed; or the config describes no model that has published names.
  """
  return _from_deepmind('params and state', params, state, config)


def to_deepmind(
  params: Params, state: State, config: PerceiverConfig
) -> tuple[Params, State]:
  """Renames parameters of this package to their published names.

  The inverse of `from_deepmind`; see there.
  """
  arrays = flat.flatten(params, state)
  renamed = to_theirs('params and state', arrays, _pairs(config))
  return flat.unflatten(renamed)


def _from_deepmind(
  subject: str, params: Params, state: State, config: PerceiverConfig
) -> tuple[Params, State]:
  arrays = flat.flatten(params, state)
  return flat.unflatten(to_ours(subject, arrays, _pairs(config)))


def _pairs(config: PerceiverConfig) -> list[Pair]:
  return pairs(flat.expected(config), _rows(config), _published)


def _published(
  ours: str, array: jax.ShapeDtypeStruct, row: Row
) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
  """Returns the published key, shape and order of axes of an array of ours."""
  tree, path = ours.split('/', 1)
  name = path.removeprefix(row.ours)  # '' if the row names the array itself.
  axes = tuple(range(len(array.shape)))
  return f'{tree}/{row.theirs}{name}', (1,) * row.unit_axes + array.shape, axes


def _rows(config: PerceiverConfig) -> Iterator[Row]:
  yield from _input_rows(config)
  if isinstance(config.decoder, AverageDecoder):
    yield from _original_perceiver_rows(config)
    return
  is_multimodal = isinstance(config.inputs, MultimodalInput)
  scope = 'encoder/~' if is_multimodal else 'perceiver_encoder/~'
  yield from _encoder_rows(config, scope)
  yield from _output_rows(config)


def _input_rows(config: PerceiverConfig) -> Iterator[Row]:
  if isinstance(config.inputs, ImageInput):
    image, ours = 'image_preprocessor', 'inputs'
    if isinstance(config.inputs.embedding, Conv1x1Embedding):
      yield Row(f'{image}/~/conv2_d', f'{ours}/embedding')
      yield Row(f'{image}/~/conv2_d/w', f'{ours}/embedding/w', unit_axes=2)
    stem = f'{image}/~/conv2_d_downsample/~'
    yield Row(f'{stem}/conv', f'{ours}/stem/convolution')
    for part in ('', '/~/mean_ema', '/~/var_ema'):
      yield Row(f'{stem}/batchnorm{part}', f'{ours}/stem/batch_norm{part}')
    grid = f'{image}/~_build_network_inputs'
    yield Row(
      f'{grid}/trainable_position_encoding/pos_embs', f'{ours}/positions'
    )
    yield Row(
      f'{grid}/position_encoding_projector/linear', f'{ours}/projection'
    )
  if isinstance(config.inputs, TextInput):
    yield Row('embed/embeddings', 'inputs/embeddings')
    yield Row('trainable_position_encoding/pos_embs', 'inputs/positions')
  if isinstance(config.inputs, FlowInput):
    yield Row('image_preprocessor/patches_linear', 'inputs/embedding')
  if isinstance(config.inputs, MultimodalInput):
    for name in config.inputs.modalities:
      for part in ('padding', 'mask_token'):
        yield Row(
          f'multimodal_preprocessor/{name}_{part}/pos_embs',
          f'inputs/{name}_{part}',
        )


def _encoder_rows(config: PerceiverConfig, scope: str) -> Iterator[Row]:
  """Yields rows of Perceiver IO's encoder, which holds the processor too."""
  yield Row(f'{scope}/trainable_position_encoding/pos_embs', 'encoder/latents')
  yield from _layer(
    f'{scope}/cross_attention', 'encoder/cross_attend', _CROSS_ATTEND
  )
  for i in range(config.num_self_attends_per_block):
    theirs = f'{scope}/self_attention' + (f'_{i}' if i else '')
    yield from _layer(theirs, f'processor/self_attend_{i}', _SELF_ATTEND)


def _output_rows(config: PerceiverConfig) -> Iterator[Row]:
  if isinstance(config.outputs, LabelOutput):
    scope = 'classification_decoder/~/basic_decoder'
    yield Row(f'{scope}/output', 'outputs/logits')
    yield Row(
      f'{scope}/~/trainable_position_encoding/pos_embs', 'decoder/query'
    )
    yield from _layer(
      f'{scope}/cross_attention', 'decoder/cross_attend', _CROSS_ATTEND
    )
  if isinstance(config.outputs, TextOutput):
    scope = 'basic_decoder'
    yield Row('embedding_decoder', 'outputs')
    yield Row(
      f'{scope}/~/trainable_position_encoding/pos_embs', 'decoder/queries'
    )
    yield from _layer(
      f'{scope}/cross_attention', 'decoder/cross_attend', _CROSS_ATTEND
    )
  if isinstance(config.outputs, FlowOutput):
    scope = 'flow_decoder/~/basic_decoder'
    yield Row(f'{scope}/output', 'outputs/flow')
    yield from _layer(
      f'{scope}/cross_attention', 'decoder/cross_attend', _CROSS_ATTEND
    )
  if isinstance(config.outputs, MultimodalOutput):
    yield from _multimodal_output_rows(config.outputs)


def _multimodal_output_rows(outputs: MultimodalOutput) -> Iterator[Row]:
  """Yields rows of outputs of which there is one of a kind."""
  decoder = 'multimodal_decoder/~'
  yield Row(f'{decoder}/basic_decoder/output', 'outputs/projection')
  yield from _layer(
    f'{decoder}/basic_decoder/cross_attention',
    'decoder/cross_attend',
    _CROSS_ATTEND,
  )
  for name in outputs.modalities:
    yield Row(
      f'{decoder}decoder_query/{name}_padding/pos_embs',
      f'decoder/{name}_padding',
    )
  names = {type(config): name for name, config in outputs.modalities.items()}
  yield Row(
    'audio_postprocessor/linear', f'outputs/{names.get(AudioOutput)}/samples'
  )
  yield Row(
    'projection_postprocessor/linear',
    f'outputs/{names.get(VideoOutput)}/pixels',
  )
  label = names.get(LabelOutput)
  yield Row('classification_postprocessor/linear', f'outputs/{label}/logits')
  yield Row(
    'classification_decoder/~/basic_decoder/~/trainable_position_encoding/'
    'pos_embs',
    f'decoder/{label}/query',
  )


def _original_perceiver_rows(config: PerceiverConfig) -> Iterator[Row]:
  """Yields rows of the original Perceiver: with shared weights and without."""
  yield Row('trainable_position_encoding/pos_embs', 'encoder/latents')
  yield Row('logits', 'outputs/logits')
  yield from _layer('cross_attend_first', 'encoder/cross_attend', _CROSS_ATTEND)
  yield from _layer(
    'cross_attend_shared', 'processor/cross_attend', _CROSS_ATTEND
  )
  for i in range(config.num_cross_attends - 1):
    theirs, ours = f'cross_attend_{i + 1}', f'processor/cross_attend_{i}'
    yield from _layer(theirs, ours, _CROSS_ATTEND)
  for j in range(config.num_self_attends_per_block):
    blocks = [f'block_{i}_' for i in range(config.num_blocks)]
    for block in ('', *blocks):
      name = f'{block}self_attend_{j}'
      yield from _layer(name, f'processor/{name}', _SELF_ATTEND)


def _layer(
  theirs: str, ours: str, template: tuple[tuple[str, str], ...]
) -> Iterator[Row]:
  for their_part, our_part in template:
    yield Row(f'{theirs}/{their_part}', f'{ours}/{our_part}')
