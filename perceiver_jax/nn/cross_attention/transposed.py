"""Keys that absorb the projection of the queries: for very many queries.

This is `absorption` with the roles exchanged. With x a normalised query before
scale g and offset o, its logit for key k is ((g x + o) W_q + b_q) . k /
sqrt(F): the product of x with the row g (W_q k) / sqrt(F), and a term of the
key alone, which the softmax over keys does see. Projected queries never exist,
and where queries are features of a grid, they are never built themselves. So do
values absorb the projection of what is read, where that takes fewer products.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from perceiver_jax.arrays import AnyArray
from perceiver_jax.nn.broadcast import add_bias
from perceiver_jax.nn.cross_attention.absorption import AbsorbingInputs, absorb
from perceiver_jax.nn.cross_attention.base import (
  Dropout,
  InputParameters,
  NormParameters,
)

Linear = tuple[Float[AnyArray, '_ _'], Float[AnyArray, ' _']]
"""Weights and bias of a linear layer."""


class AbsorbedKeys(NamedTuple):
  """Keys and values, ready for queries that are not projected.

  Attributes:
    rows: of the keys, H times N of them; multiplied with normalised queries.
    bias: added to their logits.
    values: by heads, in the dtype of the model.
    output_w: projects what is read, heads concatenated; None: the values are
      projected, and the sum over heads is left to do.
    output_b: added to what is read.
  """

  rows: Float[Array, 'B R E']
  bias: Float[Array, 'B R']
  values: Float[Array, 'B N H G']
  output_w: Float[AnyArray, 'HG D'] | None
  output_b: Float[AnyArray, ' D']

  def read(
    self,
    queries: AbsorbingInputs,
    mask: Bool[Array, 'B m'] | None,
    dropout: Dropout | None,
  ) -> Float[Array, 'B m D']:
    """Returns what queries read, projected.

    Args:
      queries: prepared as if they were to be read.
      mask: which of them read; the others get the bias alone.
      dropout: of attention weights; None: none.
    """
    values = self.values
    batch_size, num_inputs, num_heads, _ = values.shape
    logits = queries.logits(self.rows) + self.bias[..., None]
    logits = logits.reshape(batch_size, num_heads, num_inputs, -1)
    weights = jax.nn.softmax(logits, axis=2)
    if mask is not None:
      weights = jnp.where(mask[:, None, None], weights, 0.0)
    if dropout is not None:
      positions = jnp.arange(queries.num_inputs)
      factors = dropout.factors(positions, self.bias.shape)
      weights = weights * factors.reshape(weights.shape)
    weights = weights.astype(values.dtype)
    if self.output_w is None:
      read = jnp.einsum(
        'bhnm,bnhd->bmd', weights, values, preferred_element_type=jnp.float32
      )
      return (read + self.output_b).astype(values.dtype)
    read = jnp.einsum('bhnm,bnhg->bmhg', weights, values)
    read = read.reshape(*read.shape[:2], -1)
    return add_bias(read @ self.output_w, self.output_b)


def absorb_queries(
  keys: Float[Array, 'B N HF'],
  values: Float[Array, 'B N HG'],
  norm: NormParameters,
  query: Linear,
  output: Linear,
  *,
  num_heads: int,
) -> AbsorbedKeys:
  """Computes what is to be read by queries that are not projected.

  Args:
    keys: heads concatenated.
    values: heads concatenated.
    norm: of the queries' layer norm.
    query: projects normalised queries.
    output: projects what they read.
    num_heads: number H.
  """
  keys, values = (
    array.reshape(*array.shape[:2], num_heads, -1) for array in (keys, values)
  )
  rows = absorb(keys, InputParameters(*norm, *query, *query))
  query_w, query_b = (array.astype(jnp.float32) for array in query)
  constant = norm.offset.astype(jnp.float32) @ query_w + query_b
  bias = jnp.einsum(
    'bnhf,hf->bhn',
    keys.astype(jnp.float32),
    constant.reshape(num_heads, -1) * keys.shape[-1] ** -0.5,
  )
  output_w, output_b = output
  _, num_inputs, _, size = values.shape
  if output_absorption_pays(num_inputs, num_heads, *output_w.shape):
    output_w = output_w.reshape(num_heads, size, -1)
    values = jnp.einsum('bnhg,hgd->bnhd', values, output_w)
    output_w = None
  bias = bias.reshape(len(bias), -1)
  return AbsorbedKeys(rows, bias, values, output_w, output_b)


def output_absorption_pays(
  num_inputs: int, num_heads: int, v_channels: int, num_outputs: int
) -> bool:
  """Tells whether projecting values takes fewer products for a query.

  Args:
    num_inputs: number N of keys.
    num_heads: number H.
    v_channels: of values over all heads.
    num_outputs: channels that what is read is projected to.
  """
  absorbed = num_heads * num_inputs * num_outputs
  return absorbed < v_channels * (num_inputs + num_outputs)
