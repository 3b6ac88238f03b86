"""Which algorithm reads which inputs."""

import enum

from jaxtyping import Array, Float

from perceiver_jax.nn.cross_attention.absorbed import Absorbed
from perceiver_jax.nn.cross_attention.absorption import AbsorbingInputs
from perceiver_jax.nn.cross_attention.base import PreparedInputs
from perceiver_jax.nn.cross_attention.chunked import Chunked
from perceiver_jax.nn.cross_attention.joined import Joined
from perceiver_jax.nn.cross_attention.plain import Plain
from perceiver_jax.nn.cross_attention.separable import (
  Separable,
  is_separable,
  num_content_channels,
)
from perceiver_jax.nn.tokens import AnyTokens, Tokens

# More attention weights than this, in one example, are computed in chunks. On a
# grid chunks save building it, too: measured, they are as fast with 2**16, and
# need half the memory.
_MAX_WEIGHTS = 2**20
_MAX_GRID_WEIGHTS = 2**16


class Algorithm(enum.Enum):
  """How cross-attention is computed; the numbers are the same.

  CHUNKED and SEPARABLE have a written backward pass, and so no forward mode:
  `jax.jvp`, `linearize` and `jacfwd` raise a TypeError where inputs are read by
  them, which AUTO does with many inputs. PLAIN and ABSORBED have both modes.
  `grad` of `grad`, and `hessian`, are there with all of them. `jax.shard_map`
  needs `check_vma=False` for these two: their loops start from zeros, which it
  takes for the same on all devices.

  Attributes:
    AUTO: what takes the fewest FLOPs by the shapes at hand; of the others than
      PLAIN, in chunks what has very many weights. Memory has no part in the
      choice of PLAIN: several heads that read a table of positions get it, and
      all weights, heads times queries times inputs, are in memory. CHUNKED
      avoids that, at the cost of more FLOPs.
    PLAIN: keys, values and all attention weights are built, as published.
    ABSORBED: queries absorb the projections of keys and values.
    CHUNKED: as ABSORBED, in chunks of inputs.
    SEPARABLE: as CHUNKED, and Fourier features of a grid are never built;
      where only some of several modalities are on a grid, the others are read
      by ABSORBED or CHUNKED.
  """

  AUTO = enum.auto()
  PLAIN = enum.auto()
  ABSORBED = enum.auto()
  CHUNKED = enum.auto()
  SEPARABLE = enum.auto()


def prepare(
  inputs: AnyTokens | Float[Array, 'B M C'],
  algorithm: Algorithm,
  *,
  num_queries: int,
  num_heads: int,
  qk_channels: int,
  v_channels: int,
) -> PreparedInputs:
  """Computes all that a cross-attend needs of its inputs alone.

  Args:
    inputs: what is attended to.
    algorithm: how.
    num_queries: number N of queries that will read.
    num_heads: number H of heads.
    qk_channels: channels of keys over all heads.
    v_channels: channels of values over all heads.

  Raises:
    ValueError: the algorithm does not apply to these inputs.
  """
  if not isinstance(inputs, AnyTokens):
    inputs = Tokens(inputs)
  blocks = inputs.blocks
  if algorithm is Algorithm.SEPARABLE and not any(map(is_separable, blocks)):
    found = ' and '.join(str(block.axes) for block in blocks)
    raise ValueError(
      'the algorithm must not be SEPARABLE unless the inputs are a grid of two '
      f'or more axes with features of single axes, got {found}.'
    )
  algorithms = [
    _absorbing(algorithm, block, num_rows=num_heads * num_queries)
    for block in blocks
  ]
  if algorithm is Algorithm.AUTO and not absorption_pays(
    num_queries=num_queries,
    num_inputs=inputs.num_tokens,
    num_channels=inputs.num_channels,
    num_heads=num_heads,
    projected_channels=qk_channels + v_channels,
    num_read=sum(map(_num_read, blocks, algorithms)),
  ):
    algorithm = Algorithm.PLAIN
  if algorithm is Algorithm.PLAIN:
    return Plain(inputs.dense())
  parts = tuple(map(_prepared, blocks, algorithms))
  return parts[0] if len(parts) == 1 else Joined(parts)


def _absorbing(
  algorithm: Algorithm, block: Tokens, *, num_rows: int
) -> Algorithm:
  """Returns how absorbed queries read a block, if it is not forced."""
  if algorithm in (Algorithm.ABSORBED, Algorithm.CHUNKED):
    return algorithm
  num_weights = num_rows * block.num_tokens
  is_forced = algorithm is Algorithm.SEPARABLE
  if is_separable(block) and (num_weights > _MAX_GRID_WEIGHTS or is_forced):
    return Algorithm.SEPARABLE
  if num_weights > _MAX_WEIGHTS:
    return Algorithm.CHUNKED
  return Algorithm.ABSORBED


def _prepared(block: Tokens, algorithm: Algorithm) -> AbsorbingInputs:
  if algorithm is Algorithm.SEPARABLE:
    return Separable.prepare(block)
  if algorithm is Algorithm.CHUNKED:
    return Chunked.prepare(block.dense())
  return Absorbed.prepare(block.dense())


def _num_read(block: Tokens, algorithm: Algorithm) -> int:
  """Returns how many numbers of a block absorbed queries are multiplied with.

  Those that tokens of a grid share are multiplied once; they do not count.
  """
  if algorithm is Algorithm.SEPARABLE:
    return block.num_tokens * num_content_channels(block)
  return block.num_tokens * block.num_channels


def absorption_pays(
  *,
  num_queries: int,
  num_inputs: int,
  num_channels: int,
  num_heads: int,
  projected_channels: int,
  num_read: int,
) -> bool:
  """Tells whether reading normalised inputs takes fewer products.

  Args:
    num_queries: number N.
    num_inputs: number M.
    num_channels: channels C of an input.
    num_heads: number H.
    projected_channels: channels of keys and of values, together.
    num_read: how many numbers a row of absorbed queries is multiplied with: M C
      unless inputs are separable.
  """
  projections = num_channels * projected_channels
  plain = num_inputs * (projections + num_queries * projected_channels)
  absorbed = num_queries * (projections + 2 * num_heads * num_read)
  return absorbed < plain
