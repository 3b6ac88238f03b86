"""What every stage of a model makes of given inputs; nothing is computed."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax

from perceiver_jax.arrays import Params
from perceiver_jax.build import build_with_state
from perceiver_jax.flops import as_published, flops_of, weight_shapes
from perceiver_jax.modalities.base import InputConfig
from perceiver_jax.modalities.multimodal import MultimodalInput
from perceiver_jax.model import AverageDecoder, PerceiverConfig
from perceiver_jax.nn.blocks import AttendConfig
from perceiver_jax.nn.tokens import AnyTokens, JoinedTokens, Tokens


class Stage(NamedTuple):
  """A line of a summary.

  Attributes:
    name: of the stage.
    shape: of what it makes.
    note: where that comes from.
    num_params: of the stage.
    flops: of the published algorithm, as `count_flops` counts them.
  """

  name: str
  shape: str
  note: str = ''
  num_params: int = 0
  flops: int = 0


class Summary(NamedTuple):
  """The stages of a model, in order; `print` it.

  Attributes:
    stages: no parameter and no FLOP counts in two of them.
  """

  stages: tuple[Stage, ...]

  @property
  def num_params(self) -> int:
    return sum(stage.num_params for stage in self.stages)

  @property
  def flops(self) -> int:
    return sum(stage.flops for stage in self.stages)

  def __str__(self) -> str:
    total = Stage('total', '', '', self.num_params, self.flops)
    rows = [('stage', 'shape', 'parameters', 'FLOPs', 'what it is')] + [
      (
        stage.name,
        stage.shape,
        f'{stage.num_params:,}' if stage.num_params else '',
        f'{stage.flops:,}' if stage.flops else '',
        stage.note,
      )
      for stage in (*self.stages, total)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, shape, params, flops, note in rows:
      cells = (
        name.ljust(widths[0]),
        shape.ljust(widths[1]),
        params.rjust(widths[2]),
        flops.rjust(widths[3]),
        note,
      )
      lines.append('  '.join(cells).rstrip())
    return '\n'.join(lines)


def summary(
  config: PerceiverConfig, inputs: Any, queries: Any | None = None
) -> Summary:
  """Says what each stage of a model makes of inputs, and at what cost.

  Args:
    config: describes the model.
    inputs: arrays, or `jax.ShapeDtypeStruct`s of their shapes; with a batch of
      one, the FLOPs are those of an example.
    queries: raw output queries; None: all.

  Raises:
    ValueError: the config is inconsistent, or does not fit the inputs.
  """
  params, _ = weight_shapes(config, inputs)
  model = _Model(as_published(config), inputs, queries)
  return Summary(
    (
      *_input_stages(config.inputs, inputs, model.tokens),
      _tokens_stage(config, params, model),
      *_latent_stages(config, params, model),
      *_output_stages(config, params, model),
    )
  )


class _Model:
  """Shapes and FLOPs of the parts of a model; see `summary`.

  Attributes:
    tokens: shapes of the input tokens.
    latents: of the latents.
    queries: of the output queries; with an `AverageDecoder`, of the mean.
    outputs: of the outputs.
    flops: of tokens, encode, process, decode and outputs, where encode makes
      the tokens too, and decode the outputs.
  """

  def __init__(self, config: PerceiverConfig, inputs: Any, queries: Any | None):
    weights = weight_shapes(config, inputs)
    perceiver = build_with_state(config)
    parts = hk.multi_transform_with_state(lambda: _parts(config)).apply
    self.flops: dict[str, int] = {}

    def part(name, function, *args):
      def call(params, state, *args):
        return function(params, state, None, *args)[0]

      self.flops[name] = flops_of(call, *weights, *args)
      return jax.eval_shape(call, *weights, *args)

    self.tokens = part('tokens', parts[0], inputs)
    encoded = part('encode', perceiver.encode, inputs)
    self.latents = part('process', perceiver.process, encoded)
    if queries is None and config.outputs.is_queried_by_inputs:
      queries = encoded.tokens
    self.outputs = part('decode', perceiver.decode, self.latents, queries)
    self.queries = part('queries', parts[1], self.latents, queries)
    part('outputs', parts[2], self.queries, queries)


def _parts(config: PerceiverConfig) -> tuple[Callable, tuple]:
  """Returns what is inside the verbs: tokens, queries and outputs."""
  inputs = config.inputs.make('inputs')
  outputs = config.outputs.make('outputs', inputs)

  def tokens(array):
    return inputs(array, is_training=False)

  def queries(latents, raw_queries):
    if isinstance(config.decoder, AverageDecoder):
      return Tokens(latents[:, :1])
    with hk.name_scope('decoder'):
      return outputs.queries(raw_queries, len(latents), config.decoded_channels)

  def make(queries, raw_queries):
    heads = outputs.heads(raw_queries)
    return [
      head(block.dense())
      for head, block in zip(heads, queries.blocks, strict=True)
    ]

  return tokens, (tokens, queries, make)


def _input_stages(
  config: InputConfig, inputs: Any, tokens: AnyTokens
) -> Iterator[Stage]:
  if not isinstance(config, MultimodalInput):
    yield Stage('inputs', *_shape_and_dtype(inputs))
    return
  for name in tokens.names:
    yield Stage(f'inputs {name}', *_shape_and_dtype(inputs[name]))
  for name, count in tokens.counts.items():
    part = config.modalities[name]
    learned = config.num_channels - part.num_channels
    sources = part.channel_sources | ({'learned': learned} if learned else {})
    shape = [tokens.batch_size, count, config.num_channels]
    yield Stage(f'tokens {name}', str(shape), _sum(sources, part))


def _tokens_stage(
  config: PerceiverConfig, params: Params, model: _Model
) -> Stage:
  tokens = model.tokens
  if isinstance(tokens, JoinedTokens):
    note = f'{_sum(tokens.counts)} tokens'
  else:
    note = _sum(config.inputs.channel_sources, config.inputs)
  num_channels = config.inputs.num_channels
  shape = [tokens.batch_size, tokens.num_tokens, num_channels]
  return Stage(
    'tokens', str(shape), note, _count(params, 'inputs'), model.flops['tokens']
  )


def _latent_stages(
  config: PerceiverConfig, params: Params, model: _Model
) -> Iterator[Stage]:
  shape = str(list(model.latents.shape))
  learned = config.num_latents * config.latent_channels
  yield Stage('latents', shape, 'learned', learned)
  cross_flops = model.flops['encode'] - model.flops['tokens']
  yield Stage(
    'cross-attend 1',
    shape,
    f'latents read tokens, {_heads(config.cross_attend)}',
    _count(params, 'encoder') - learned,
    cross_flops,
  )
  again = config.num_cross_attends - 1
  cross_params = _count(params, 'processor/cross_attend')
  if again:
    shared = 'shared weights' if config.share_cross_attends else 'own weights'
    place = config.cross_attend_placement.name.lower()
    yield Stage(
      'cross-attend 2' if again == 1 else f'cross-attends 2 to {again + 1}',
      shape,
      f'latents read tokens again, {place}, {shared}',
      cross_params,
      again * cross_flops,
    )
  shared = ', shared weights' if config.share_blocks else ''
  yield Stage(
    'self-attends',
    shape,
    f'{config.num_blocks} x {config.num_self_attends_per_block}, '
    f'{_heads(config.self_attend)}{shared if config.num_blocks > 1 else ""}',
    _count(params, 'processor') - cross_params,
    model.flops['process'] - again * cross_flops,
  )


def _output_stages(
  config: PerceiverConfig, params: Params, model: _Model
) -> Iterator[Stage]:
  queries = jax.eval_shape(lambda tokens: tokens.dense(), model.queries)
  shape = str(list(queries.shape))
  if isinstance(config.decoder, AverageDecoder):
    yield Stage('decoder', shape, 'the mean over latents')
  else:
    cross_params = _count(params, 'decoder/cross_attend')
    yield Stage(
      'queries', shape, type(config.outputs).__name__,
      _count(params, 'decoder') - cross_params,
    )  # fmt: skip
    yield Stage(
      'decoder',
      shape,
      f'queries read latents, {_heads(config.decoder.cross_attend)}',
      cross_params,
      model.flops['decode'] - model.flops['outputs'],
    )
  outputs = model.outputs
  named = outputs if isinstance(outputs, Mapping) else {'': outputs}
  cost = (_count(params, 'outputs'), model.flops['outputs'])
  for name, array in named.items():
    yield Stage(f'outputs {name}'.strip(), *_shape_and_dtype(array), *cost)
    cost = (0, 0)  # All of them: they may share a layer.


def _count(params: Params, scope: str) -> int:
  """Counts the parameters of modules whose path begins with the scope."""
  return sum(
    math.prod(leaf.shape)
    for module, leaves in params.items()
    if module.startswith(scope)
    for leaf in leaves.values()
  )


def _shape_and_dtype(array: Any) -> tuple[str, str]:
  return str(list(array.shape)), str(array.dtype)


def _heads(attend: AttendConfig) -> str:
  return f'{attend.num_heads} head{"s" if attend.num_heads > 1 else ""}'


def _sum(parts: Mapping[str, int], config: InputConfig | None = None) -> str:
  """Spells a sum, and what a config says of the positions in it."""
  terms = ' + '.join(f'{name} {count:,}' for name, count in parts.items())
  total = f' = {sum(parts.values()):,}' if len(parts) > 1 else ''
  note = config.positions_note if config else ''
  return f'{terms}{total}{f" ({note})" if note else ""}'
