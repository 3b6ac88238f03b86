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

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from perceiver_jax.arrays import Params, State
from perceiver_jax.build import build_with_state
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


class _Row(NamedTuple):
  """One line of the table.

  Attributes:
    theirs: the published name of a module, or `module/array`.
    ours: its name in this package.
    unit_axes: how many leading axes of size 1 only the published array has.
  """

  theirs: str
  ours: str
  unit_axes: int = 0


class _Array(NamedTuple):
  """Where an array is in a tree, and its shape."""

  module: str
  name: str
  shape: tuple[int, ...]


class _Pair(NamedTuple):
  """The same array in both trees."""

  theirs: _Array
  ours: _Array


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
    ValueError: arrays are missing, left over or of a wrong shape, all listed;
      or the config describes no model that has published names.
  """
  pairs = _pairs(config)
  given = {'params': params, 'state': state}
  return tuple(
    _renamed(tree, given[tree], [(p.theirs, p.ours) for p in pairs[tree]])
    for tree in ('params', 'state')
  )


def to_deepmind(
  params: Params, state: State, config: PerceiverConfig
) -> tuple[Params, State]:
  """Renames parameters of this package to their published names.

  The inverse of `from_deepmind`; see there.
  """
  pairs = _pairs(config)
  given = {'params': params, 'state': state}
  return tuple(
    _renamed(tree, given[tree], [(p.ours, p.theirs) for p in pairs[tree]])
    for tree in ('params', 'state')
  )


def _renamed(
  tree: str, given: Params, moves: list[tuple[_Array, _Array]]
) -> dict[str, dict[str, Any]]:
  """Moves every array from its one place to the other, or refuses them all."""
  arrays = {
    (module, name): array
    for module, leaves in given.items()
    for name, array in leaves.items()
  }
  wanted = {(source.module, source.name): source for source, _ in moves}
  problems = [
    *(f'{"/".join(key)} is missing' for key in wanted.keys() - arrays.keys()),
    *(f'{"/".join(key)} is left over' for key in arrays.keys() - wanted.keys()),
    *(
      f'{"/".join(key)} must have shape {wanted[key].shape}, '
      f'got {jnp.shape(arrays[key])}'
      for key in wanted.keys() & arrays.keys()
      if jnp.shape(arrays[key]) != wanted[key].shape
    ),
  ]
  if problems:
    raise ValueError(
      f'{tree} must hold the {_totals(source for source, _ in moves)} of the '
      f'config, got {len(arrays)} arrays: {"; ".join(sorted(problems))}.'
    )
  renamed: dict[str, dict[str, Any]] = {}
  for source, target in moves:
    array = arrays[source.module, source.name]
    renamed.setdefault(target.module, {})[target.name] = array.reshape(
      target.shape
    )
  return renamed


def _totals(arrays: Iterable[_Array]) -> str:
  sizes = [math.prod(array.shape) for array in arrays]
  return f'{len(sizes)} arrays ({sum(sizes):,} numbers)'


def _pairs(config: PerceiverConfig) -> dict[str, list[_Pair]]:
  """Looks up the published place of every parameter and statistic."""
  perceiver = build_with_state(config)
  params, state = jax.eval_shape(
    perceiver.init, jax.random.key(0), config.inputs.example()
  )
  rows = {row.ours: row for row in _rows(config)}
  ours = {'params': list(_arrays(params)), 'state': list(_arrays(state))}
  unnamed = [
    f'{array.module}/{array.name}'
    for array in ours['params'] + ours['state']
    if _row_of(array, rows) is None
  ]
  if unnamed:
    raise ValueError(
      'config must describe a model whose parameters all have published '
      f'names, got {len(unnamed)} that have none: {", ".join(unnamed)}.'
    )
  return {
    tree: [_Pair(_published(array, rows), array) for array in arrays]
    for tree, arrays in ours.items()
  }


def _arrays(tree: Params) -> Iterator[_Array]:
  for module, leaves in tree.items():
    for name, leaf in leaves.items():
      yield _Array(module, name, leaf.shape)


def _row_of(ours: _Array, rows: dict[str, _Row]) -> _Row | None:
  return rows.get(f'{ours.module}/{ours.name}', rows.get(ours.module))


def _published(ours: _Array, rows: dict[str, _Row]) -> _Array:
  row = _row_of(ours, rows)
  module, name = row.theirs, ours.name
  if row.ours != ours.module:
    module, name = row.theirs.rsplit('/', 1)
  return _Array(module, name, (1,) * row.unit_axes + ours.shape)


def _rows(config: PerceiverConfig) -> Iterator[_Row]:
  yield from _input_rows(config)
  if isinstance(config.decoder, AverageDecoder):
    yield from _original_perceiver_rows(config)
    return
  is_multimodal = isinstance(config.inputs, MultimodalInput)
  scope = 'encoder/~' if is_multimodal else 'perceiver_encoder/~'
  yield from _encoder_rows(config, scope)
  yield from _output_rows(config)


def _input_rows(config: PerceiverConfig) -> Iterator[_Row]:
  if isinstance(config.inputs, ImageInput):
    image, ours = 'image_preprocessor', 'inputs'
    if isinstance(config.inputs.embedding, Conv1x1Embedding):
      yield _Row(f'{image}/~/conv2_d', f'{ours}/embedding')
      yield _Row(f'{image}/~/conv2_d/w', f'{ours}/embedding/w', unit_axes=2)
    stem = f'{image}/~/conv2_d_downsample/~'
    yield _Row(f'{stem}/conv', f'{ours}/stem/convolution')
    for part in ('', '/~/mean_ema', '/~/var_ema'):
      yield _Row(f'{stem}/batchnorm{part}', f'{ours}/stem/batch_norm{part}')
    grid = f'{image}/~_build_network_inputs'
    yield _Row(
      f'{grid}/trainable_position_encoding/pos_embs', f'{ours}/positions'
    )
    yield _Row(
      f'{grid}/position_encoding_projector/linear', f'{ours}/projection'
    )
  if isinstance(config.inputs, TextInput):
    yield _Row('embed/embeddings', 'inputs/embeddings')
    yield _Row('trainable_position_encoding/pos_embs', 'inputs/positions')
  if isinstance(config.inputs, FlowInput):
    yield _Row('image_preprocessor/patches_linear', 'inputs/embedding')
  if isinstance(config.inputs, MultimodalInput):
    for name in config.inputs.modalities:
      for part in ('padding', 'mask_token'):
        yield _Row(
          f'multimodal_preprocessor/{name}_{part}/pos_embs',
          f'inputs/{name}_{part}',
        )


def _encoder_rows(config: PerceiverConfig, scope: str) -> Iterator[_Row]:
  """Yields rows of Perceiver IO's encoder, which holds the processor too."""
  yield _Row(f'{scope}/trainable_position_encoding/pos_embs', 'encoder/latents')
  yield from _layer(
    f'{scope}/cross_attention', 'encoder/cross_attend', _CROSS_ATTEND
  )
  for i in range(config.num_self_attends_per_block):
    theirs = f'{scope}/self_attention' + (f'_{i}' if i else '')
    yield from _layer(theirs, f'processor/self_attend_{i}', _SELF_ATTEND)


def _output_rows(config: PerceiverConfig) -> Iterator[_Row]:
  if isinstance(config.outputs, LabelOutput):
    scope = 'classification_decoder/~/basic_decoder'
    yield _Row(f'{scope}/output', 'outputs/logits')
    yield _Row(
      f'{scope}/~/trainable_position_encoding/pos_embs', 'decoder/query'
    )
    yield from _layer(
      f'{scope}/cross_attention', 'decoder/cross_attend', _CROSS_ATTEND
    )
  if isinstance(config.outputs, TextOutput):
    scope = 'basic_decoder'
    yield _Row('embedding_decoder', 'outputs')
    yield _Row(
      f'{scope}/~/trainable_position_encoding/pos_embs', 'decoder/queries'
    )
    yield from _layer(
      f'{scope}/cross_attention', 'decoder/cross_attend', _CROSS_ATTEND
    )
  if isinstance(config.outputs, FlowOutput):
    scope = 'flow_decoder/~/basic_decoder'
    yield _Row(f'{scope}/output', 'outputs/flow')
    yield from _layer(
      f'{scope}/cross_attention', 'decoder/cross_attend', _CROSS_ATTEND
    )
  if isinstance(config.outputs, MultimodalOutput):
    yield from _multimodal_output_rows(config.outputs)


def _multimodal_output_rows(outputs: MultimodalOutput) -> Iterator[_Row]:
  """Yields rows of outputs of which there is one of a kind."""
  decoder = 'multimodal_decoder/~'
  yield _Row(f'{decoder}/basic_decoder/output', 'outputs/projection')
  yield from _layer(
    f'{decoder}/basic_decoder/cross_attention',
    'decoder/cross_attend',
    _CROSS_ATTEND,
  )
  for name in outputs.modalities:
    yield _Row(
      f'{decoder}decoder_query/{name}_padding/pos_embs',
      f'decoder/{name}_padding',
    )
  names = {type(config): name for name, config in outputs.modalities.items()}
  yield _Row(
    'audio_postprocessor/linear', f'outputs/{names.get(AudioOutput)}/samples'
  )
  yield _Row(
    'projection_postprocessor/linear',
    f'outputs/{names.get(VideoOutput)}/pixels',
  )
  label = names.get(LabelOutput)
  yield _Row('classification_postprocessor/linear', f'outputs/{label}/logits')
  yield _Row(
    'classification_decoder/~/basic_decoder/~/trainable_position_encoding/'
    'pos_embs',
    f'decoder/{label}/query',
  )


def _original_perceiver_rows(config: PerceiverConfig) -> Iterator[_Row]:
  """Yields rows of the original Perceiver: with shared weights and without."""
  yield _Row('trainable_position_encoding/pos_embs', 'encoder/latents')
  yield _Row('logits', 'outputs/logits')
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
) -> Iterator[_Row]:
  for their_part, our_part in template:
    yield _Row(f'{theirs}/{their_part}', f'{ours}/{our_part}')
