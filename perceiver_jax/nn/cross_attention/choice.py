"""Which algorithm reads which inputs."""

import enum

from jaxtyping import Array, Float

from perceiver_jax.nn.cross_attention.absorbed import Absorbed
from perceiver_jax.nn.cross_attention.base import PreparedInputs
from perceiver_jax.nn.cross_attention.chunked import Chunked
from perceiver_jax.nn.cross_attention.plain import Plain
from perceiver_jax.nn.cross_attention.separable import Separable, is_separable
from perceiver_jax.nn.tokens import Tokens

# More attention weights than this, in one example, are computed in chunks.
_MAX_WEIGHTS = 2**20


class Algorithm(enum.Enum):
  """How cross-attention is computed; the numbers are the same.

  Attributes:
    AUTO: the cheapest by the shapes at hand.
    PLAIN: keys, values and all attention weights are built, as published.
    ABSORBED: queries absorb the projections of keys and values.
    CHUNKED: as ABSORBED, in chunks of inputs.
    SEPARABLE: as CHUNKED, and Fourier features of a grid are never built.
  """

  AUTO = enum.auto()
  PLAIN = enum.auto()
  ABSORBED = enum.auto()
  CHUNKED = enum.auto()
  SEPARABLE = enum.auto()


def prepare(
  inputs: Tokens | Float[Array, 'B M C'],
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
  separable = isinstance(inputs, Tokens) and is_separable(inputs)
  if algorithm is Algorithm.SEPARABLE and not separable:
    found = inputs.axes if isinstance(inputs, Tokens) else 'a dense array'
    raise ValueError(
      'the algorithm must not be SEPARABLE unless the inputs are a grid of two '
      f'or more axes with features of single axes, got {found}.'
    )
  if algorithm is Algorithm.AUTO:
    if isinstance(inputs, Tokens):
      num_inputs, num_channels = inputs.num_tokens, inputs.num_channels
    else:
      num_inputs, num_channels = inputs.shape[1:]
    absorbs = absorption_pays(
      num_queries=num_queries,
      num_inputs=num_inputs,
      num_channels=num_channels,
      num_heads=num_heads,
      projected_channels=qk_channels + v_channels,
    )
    is_large = num_heads * num_queries * num_inputs > _MAX_WEIGHTS
    if separable and is_large:
      algorithm = Algorithm.SEPARABLE
    elif not absorbs:
      algorithm = Algorithm.PLAIN
    else:
      algorithm = Algorithm.CHUNKED if is_large else Algorithm.ABSORBED
  if algorithm is Algorithm.SEPARABLE:
    return Separable.prepare(inputs)
  dense = inputs.dense() if isinstance(inputs, Tokens) else inputs
  if algorithm is Algorithm.PLAIN:
    return Plain(dense)
  if algorithm is Algorithm.ABSORBED:
    return Absorbed.prepare(dense)
  return Chunked.prepare(dense)


def absorption_pays(
  *,
  num_queries: int,
  num_inputs: int,
  num_channels: int,
  num_heads: int,
  projected_channels: int,
) -> bool:
  """Tells whether reading normalised inputs takes fewer products.

  Args:
    num_queries: number N.
    num_inputs: number M.
    num_channels: channels C of an input.
    num_heads: number H.
    projected_channels: channels of keys and of values, together.
  """
  projections = num_channels * projected_channels
  plain = num_inputs * (projections + num_queries * projected_channels)
  absorbed = num_queries * (
    projections + 2 * num_heads * num_inputs * num_channels
  )
  return absorbed < plain
