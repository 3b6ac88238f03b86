"""Repeating what many tokens or examples share."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from perceiver_jax.arrays import AnyArray


def broadcast(
  array: AnyArray, shape: tuple[int, ...], dtype: jnp.dtype
) -> Array:
  """Repeats an array; its gradient is added up in float32.

  In bfloat16, which XLA on a CPU would add up as it is, a sum stops growing
  after some hundreds of numbers: most of the gradient of a bias was lost.

  Args:
    array: floating, of shared numbers.
    shape: to which `array` broadcasts.
    dtype: of the result.
  """
  return jnp.broadcast_to(jnp.asarray(array, jnp.float32), shape).astype(dtype)


def add_bias(array: Float[Array, '*batch C'], bias: AnyArray) -> Array:
  """Adds a bias to every row; its gradient is that of `broadcast`."""
  return array + broadcast(bias, array.shape, array.dtype)
