"""Queries that read normalised inputs directly, without keys and values.

With x the normalised inputs before scale g and offset o, a logit is
q . ((g x + o) W_k + b_k) / sqrt(F): the product of x with the row
g (W_k q) / sqrt(F), plus terms that all inputs share and softmax ignores. The
average of values under weights a is (g u + t o) W_v + t b_v, where
u = sum_m a_m x_m and t = sum_m a_m. (t is 1 but for masks and dropout.)

Normalised inputs sum to zero over channels, so rows may be centred; then a
row times x is the row times the raw input over its standard deviation.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from perceiver_jax.nn.cross_attention.base import InputParameters


def absorb(
  query: Float[Array, 'B N H F'], params: InputParameters
) -> Float[Array, 'B R C']:
  """Returns what normalised inputs are multiplied with to give logits.

  Args:
    query: projected queries, by heads.
    params: the projections of the inputs.

  Returns:
    R = H N rows, queries within heads, each with a mean of zero; float32.
  """
  batch, num_queries, num_heads, head_size = query.shape
  key_w = params.key_w.reshape(-1, num_heads, head_size)
  rows = jnp.einsum(
    'bnhf,chf->bhnc', query, key_w, preferred_element_type=jnp.float32
  )
  rows = rows * (params.norm_scale.astype(jnp.float32) * head_size**-0.5)
  rows = rows - jnp.mean(rows, axis=-1, keepdims=True)
  return rows.reshape(batch, num_heads * num_queries, -1)


def release(
  average: Float[Array, 'B R C'],
  total: Float[Array, 'B R'],
  params: InputParameters,
  query: Float[Array, 'B N H F'],
) -> Float[Array, 'B N HG']:
  """Returns averages of values, given averages of normalised inputs.

  Args:
    average: normalised inputs, averaged by the weights of each row; float32.
    total: sums of these weights.
    params: the projections of the inputs.
    query: tells numbers and dtype.
  """
  batch, num_queries, num_heads, _ = query.shape
  total = total[..., None]
  average = average * params.norm_scale + total * params.norm_offset
  average = average.reshape(batch, num_heads, num_queries, -1)
  value_w = params.value_w.reshape(average.shape[-1], num_heads, -1)
  outputs = jnp.einsum(
    'bhnc,chg->bnhg',
    average.astype(query.dtype),
    value_w,
    preferred_element_type=jnp.float32,
  )
  bias = params.value_b.reshape(num_heads, -1)
  total = total.reshape(batch, num_heads, num_queries, 1).transpose(0, 2, 1, 3)
  outputs = (outputs + total * bias).astype(query.dtype)
  return outputs.reshape(batch, num_queries, -1)
