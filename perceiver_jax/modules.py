"""The three modules of a Perceiver, one for each of its verbs.

The `Encoder` reads inputs into latents, the `Processor` works on the latents,
and the `Decoder` reads out of them what outputs are made of.
"""

from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from perceiver_jax.arrays import InputMask, Latents, Masks, QueryMask, Rng
from perceiver_jax.modalities.base import OutputModality, check_mask
from perceiver_jax.model import AverageDecoder, PerceiverConfig, Placement
from perceiver_jax.nn.cross_attention import PreparedInputs
from perceiver_jax.nn.latent_reader import LatentReader
from perceiver_jax.nn.positions import learned_positions
from perceiver_jax.nn.repeat import Block, Remat, repeat, stack
from perceiver_jax.nn.tokens import AnyTokens


class Encoded(NamedTuple):
  """What `encode` hands to `process`.

  Attributes:
    latents: the latents after the first cross-attend.
    tokens: the input tokens; None unless `process` reads the inputs again, or
      they are the queries of `decode`.
    mask: which tokens to use; None: all of them, or `process` needs no mask.
  """

  latents: Latents
  tokens: AnyTokens | None
  mask: InputMask | None


class Encoder(hk.Module):
  """Holds the latents and reads the inputs for the first time."""

  def __init__(self, config: PerceiverConfig, name: str = 'encoder'):
    super().__init__(name)
    self._config = config

  def __call__(
    self, tokens: AnyTokens, mask: InputMask | None, *, is_training: bool
  ) -> Encoded:
    config = self._config
    latents = learned_positions(
      config.num_latents,
      config.latent_channels,
      config.latent_init_scale,
      'latents',
    )
    latents = jnp.broadcast_to(latents, (tokens.batch_size, *latents.shape))
    inputs = config.cross_attend.prepare(tokens, num_queries=config.num_latents)
    cross_attend = Block(config.cross_attend, remat=config.cross_attend.remat)
    latents = cross_attend(
      cross_attend.parameters('cross_attend', latents, inputs),
      hk.next_rng_key() if is_training else None,
      latents,
      inputs,
      mask,
      is_training=is_training,
    )
    again = config.reads_inputs_again
    keeps_tokens = again or config.outputs.is_queried_by_inputs
    tokens = tokens if keeps_tokens else None
    return Encoded(latents, tokens, mask if again else None)


class Processor(hk.Module):
  """The deep latent transformer, with the later cross-attends in it."""

  def __init__(self, config: PerceiverConfig, name: str = 'processor'):
    super().__init__(name)
    self._config = config
    self._cross_attend = Block(
      config.cross_attend, remat=config.cross_attend.remat
    )
    self._self_attend = Block(
      config.self_attend, remat=config.self_attend.remat
    )

  def __call__(self, encoded: Encoded, *, is_training: bool) -> Latents:
    _check_encoded(encoded)
    latents, tokens, mask = encoded
    config = self._config
    inputs = self._prepared(tokens)
    shared_cross, crosses = self._cross_attend_params(latents, inputs)
    if shared_cross is not None:
      project = Block(config.cross_attend.project, remat=Remat.NONE)
      inputs = project(shared_cross, None, inputs, is_training=is_training)
    shared_block, blocks = self._block_params(latents)
    group = config.blocks_per_cross_attend

    # None, in place of a layer's own parameters, stands for the shared ones.
    def attend(latents, cross, rng):
      params = shared_cross if cross is None else cross
      return self._cross_attend(
        params, rng, latents, inputs, mask, is_training=is_training
      )

    def transform(latents, block, rng):
      layers = shared_block if block is None else block
      return self._self_attends(latents, layers, rng, is_training=is_training)

    def transform_and_attend(latents, layers, rng):
      blocks, cross = layers
      rngs = _split(rng)
      latents = self._repeat(transform, latents, blocks, rngs[0], group)
      return attend(latents, cross, rngs[1])

    rngs = _split(hk.next_rng_key() if is_training else None)
    num_crosses = len(crosses)
    if config.cross_attend_placement is Placement.START:
      if crosses:
        crosses = self._stack(crosses)
        latents = self._repeat(attend, latents, crosses, rngs[0], num_crosses)
      blocks = self._stack(blocks)
      return self._repeat(transform, latents, blocks, rngs[1], group)

    # The group outside the loop is the last one, for the backward pass is done
    # with it, and with what it stored, before it enters the loop.
    *groups, last = [
      self._stack(blocks[i : i + group])
      for i in range(0, config.num_blocks, group)
    ]
    if groups:
      rounds = self._stack(list(zip(groups, crosses, strict=True)))
      latents = self._repeat(
        transform_and_attend, latents, rounds, rngs[0], num_crosses
      )
    return self._repeat(transform, latents, last, rngs[1], group)

  def _prepared(self, tokens: AnyTokens | None) -> PreparedInputs | None:
    """Computes what depends on the inputs alone, if they are read again."""
    config = self._config
    if not config.reads_inputs_again:
      return None
    return config.cross_attend.prepare(tokens, num_queries=config.num_latents)

  @hk.transparent
  def _cross_attend_params(
    self, latents: Latents, inputs: PreparedInputs | None
  ) -> tuple[Any, list[Any]]:
    """Returns shared parameters or None, and those of each cross-attend."""
    count = self._config.num_cross_attends - 1
    if count and self._config.share_cross_attends:
      params = self._cross_attend.parameters('cross_attend', latents, inputs)
      return params, [None] * count
    return None, [
      self._cross_attend.parameters(f'cross_attend_{i}', latents, inputs)
      for i in range(count)
    ]

  @hk.transparent
  def _block_params(self, latents: Latents) -> tuple[Any, list[Any]]:
    """Returns shared parameters or None, and those of each block."""
    if self._config.share_blocks:
      block = self._layers('self_attend', latents)
      return block, [None] * self._config.num_blocks
    return None, [
      self._layers(f'block_{i}_self_attend', latents)
      for i in range(self._config.num_blocks)
    ]

  @hk.transparent
  def _layers(self, prefix: str, latents: Latents) -> Any:
    return stack(
      [
        self._self_attend.parameters(f'{prefix}_{i}', latents)
        for i in range(self._config.num_self_attends_per_block)
      ],
      unroll=self._unrolls_layers,
    )

  @hk.transparent
  def _self_attends(
    self, latents: Latents, layers: Any, rng: Rng | None, *, is_training: bool
  ) -> Latents:
    """Applies one latent transformer."""

    def layer(latents, params, rng):
      return self._self_attend(params, rng, latents, is_training=is_training)

    length = self._config.num_self_attends_per_block
    return repeat(
      layer, latents, layers, rng, length=length, unroll=self._unrolls_layers
    )

  @property
  def _unrolls_layers(self) -> bool:
    """Whether the layers of a block are written out, not scanned.

    Those of a block that is itself repeated: the program is one block long
    however deep the model is, and neither parameters nor gradients are stacked,
    which costs more than the block's activations.
    """
    config = self._config
    return config.unroll or (config.share_blocks and config.num_blocks > 1)

  def _stack(self, layers: list[Any]) -> Any:
    return stack(layers, unroll=self._config.unroll)

  def _repeat(self, body, latents, layers, rng, length) -> Latents:
    unroll = self._config.unroll
    return repeat(body, latents, layers, rng, length=length, unroll=unroll)


class Decoder(hk.Module):
  """Turns latents into what the output modality makes outputs of."""

  def __init__(self, config: PerceiverConfig, name: str = 'decoder'):
    super().__init__(name)
    self._config = config.decoder
    self._outputs = config.outputs
    self._query_channels = config.decoded_channels
    self._latent_channels = config.latent_channels

  def __call__(
    self,
    latents: Latents,
    outputs: OutputModality,
    raw_queries: Any | None,
    query_mask: QueryMask | Masks | None,
    *,
    is_training: bool,
  ) -> Any:
    """Returns the outputs; see `Decode`."""
    config = self._config
    _check_latents(latents, self._latent_channels)
    heads = outputs.heads(raw_queries)
    if isinstance(config, AverageDecoder):
      if raw_queries is not None or query_mask is not None:
        raise ValueError(
          'queries and query_mask must be None with an AverageDecoder, which '
          'reads the mean over latents.'
        )
      (head,) = heads
      made = [head(jnp.mean(latents, axis=1, keepdims=True))]
      return outputs.arrange(made, raw_queries)
    batch_size = latents.shape[0]
    queries = outputs.queries(raw_queries, batch_size, self._query_channels)
    queries = queries.astype(latents.dtype)
    query_mask = self._outputs.join_masks(
      query_mask, outputs, raw_queries, batch_size
    )
    if query_mask is not None:
      check_mask('query_mask', query_mask, (batch_size, queries.num_tokens))
    read = LatentReader(
      config.cross_attend,
      config.query_algorithm,
      config.query_chunk_size,
      latents,
      num_queries=queries.num_tokens,
      num_query_channels=queries.num_channels,
      is_training=is_training,
    )
    made, start = [], 0
    for block, head in zip(queries.blocks, heads, strict=True):
      stop = start + block.num_tokens
      mask = None if query_mask is None else query_mask[:, start:stop]
      rng = hk.next_rng_key() if is_training else None
      made.append(read(block, mask, rng, head))
      start = stop
    return outputs.arrange(made, raw_queries)


def _check_encoded(encoded: Encoded) -> None:
  if not isinstance(encoded, Encoded):
    raise TypeError(
      'encoded must be what encode() returned, an Encoded, got '
      f'{type(encoded).__name__}.'
    )


def _check_latents(latents: Latents, num_channels: int) -> None:
  if latents.ndim != 3 or latents.shape[2] != num_channels:
    raise ValueError(
      f'latents must have shape [B, N, {num_channels}], '
      f'got {list(latents.shape)}.'
    )


def _split(rng: Rng | None) -> tuple[Rng | None, Rng | None]:
  if rng is None:
    return None, None
  first, second = jax.random.split(rng)
  return first, second
