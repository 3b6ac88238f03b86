"""Keys of `jax.random` for each example of a batch, or one for all.

What an example draws with a key of its own is the same in any batch, and so on
any number of devices.
"""

import haiku as hk
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from perceiver_jax.arrays import ExampleRngs, Rng


def is_for_each(rng: Rng | ExampleRngs | None) -> bool:
  """Returns whether these are keys of examples, not one for all."""
  if rng is None or not jnp.issubdtype(rng.dtype, jax.dtypes.prng_key):
    return False
  return rng.ndim == 1


def split(
  rng: Rng | ExampleRngs | None, count: int
) -> tuple[Rng | ExampleRngs | None, ...]:
  """Splits a key, or that of each example, into `count` such; None remains."""
  if rng is None:
    return (None,) * count
  if not is_for_each(rng):
    return tuple(jax.random.split(rng, count))
  return jax.vmap(lambda key: tuple(jax.random.split(key, count)))(rng)


def drawn(rngs: ExampleRngs | None, batch_size: int) -> ExampleRngs:
  """Returns keys of examples; if there are none yet, draws them by Haiku."""
  if rngs is not None:
    return rngs
  rng = hk.next_rng_key()
  if not jnp.issubdtype(rng.dtype, jax.dtypes.prng_key):
    rng = jax.random.wrap_key_data(rng)  # Of `jax.random.PRNGKey`.
  return jax.random.split(rng, batch_size)


def bernoulli(
  rngs: ExampleRngs | None, prob: float, shape: tuple[int, ...]
) -> Bool[Array, 'B ...']:
  """Draws an array of this shape, whose first axis is the batch."""

  def draw(rng: Rng) -> Bool[Array, '...']:
    return jax.random.bernoulli(rng, prob, shape[1:])

  return jax.vmap(draw)(drawn(rngs, shape[0]))
