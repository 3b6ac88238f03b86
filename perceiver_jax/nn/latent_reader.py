"""Reading latents with any number of output queries."""

from collections.abc import Callable

import haiku as hk
import jax.numpy as jnp
from jaxtyping import Array, Float

from perceiver_jax.arrays import Latents, QueryMask, Rng
from perceiver_jax.nn.blocks import CrossAttendConfig
from perceiver_jax.nn.cross_attention.queries import (
  QueryAlgorithm,
  chunk_size,
)
from perceiver_jax.nn.repeat import Block, Remat
from perceiver_jax.nn.token_chunks import map_chunks
from perceiver_jax.nn.tokens import Tokens

_Read = Callable[[Tokens, QueryMask | None, Rng | None], Float[Array, 'B o D']]


class LatentReader:
  """Reads latents with queries, in chunks of them where they are very many.

  Its parameters are those of the block `cross_attend` in the current scope.

  Args:
    attend: the block.
    algorithm: how queries are dealt with.
    chunk_size: number of queries in a chunk; None: by shapes.
    latents: what is read.
    num_queries: how many queries will read, in all.
    num_query_channels: channels of a query.
    is_training: whether dropout applies.
  """

  def __init__(
    self,
    attend: CrossAttendConfig,
    algorithm: QueryAlgorithm,
    chunk_size: int | None,
    latents: Latents,
    *,
    num_queries: int,
    num_query_channels: int,
    is_training: bool,
  ):
    self._attend = attend
    self._algorithm = algorithm
    self._chunk_size = chunk_size
    self._is_training = is_training
    latents = jnp.asarray(latents)
    # Parameters do not depend on the number of queries.
    query = jnp.zeros((len(latents), 1, num_query_channels), latents.dtype)
    inputs = attend.prepare(latents, num_queries=num_queries)
    block = Block(attend, remat=Remat.NONE)
    params = block.parameters('cross_attend', query, inputs)
    # What all chunks read is computed once.
    project = Block(attend.project, remat=Remat.NONE)
    self._params = params
    self._inputs = project(params, None, inputs, is_training=is_training)
    self._latents = latents

  def __call__(
    self,
    queries: Tokens,
    mask: QueryMask | None,
    rng: Rng | None,
    head: Callable[[Float[Array, 'B o D']], Float[Array, 'B o K']],
  ) -> Float[Array, 'B O K']:
    """Returns what a head makes of what queries have read.

    Args:
      queries: all of them.
      mask: which of them read; the others get what zeros are projected to.
      rng: a key for dropout.
      head: makes something of each query alone; draws no random numbers.
    """
    attend = self._attend
    algorithm = attend.choose(
      self._algorithm, queries, self._latents, self._chunk_size
    )
    if algorithm is QueryAlgorithm.PLAIN or hk.running_init():
      # Initialisation computes nothing, and a loop could not hold parameters.
      return head(self._read(queries, mask, rng, remat=attend.remat))
    read = self._read
    if algorithm is QueryAlgorithm.ABSORBED:
      read = self._absorbed_reader(queries.num_channels)
    batch_size, num_inputs, _ = self._latents.shape
    num_weights = batch_size * attend.num_heads * num_inputs
    size = self._chunk_size or chunk_size(num_weights)
    return map_chunks(
      lambda *chunk: head(read(*chunk)), queries, mask, rng, chunk_size=size
    )

  def _read(
    self,
    queries: Tokens,
    mask: QueryMask | None,
    rng: Rng | None,
    *,
    remat: Remat = Remat.NONE,
  ) -> Float[Array, 'B O D']:
    arrays = queries.dense(), self._inputs, None, mask
    block = Block(self._attend, remat=remat)
    return block(self._params, rng, *arrays, is_training=self._is_training)

  def _absorbed_reader(self, num_channels: int) -> _Read:
    absorb = Block(self._attend.absorb_queries, remat=Remat.NONE)
    keys = absorb(
      self._params, None, self._latents, num_channels, is_training=False
    )
    block = Block(self._attend.read_absorbed, remat=Remat.NONE)

    def read(queries, mask, rng):
      arrays = queries, keys, mask
      return block(self._params, rng, *arrays, is_training=self._is_training)

    return read
