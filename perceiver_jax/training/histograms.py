"""How gradients, updates and parameters are distributed, module by module."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from perceiver_jax.arrays import AnyArray
from perceiver_jax.tasks.base import Batch
from perceiver_jax.training import parallel
from perceiver_jax.training.job import Job
from perceiver_jax.training.state import TrainState
from perceiver_jax.training.step import make_gradients

_NUM_BINS = 64


class Histogram(NamedTuple):
  """Counts of finite numbers in bins of equal width, from lowest to highest.

  Attributes:
    edges: of the bins; those between belong to the bin below them.
    counts: of the numbers in each bin, 0 if none is finite.
    total: sum of the numbers.
    squares: sum of their squares.
  """

  edges: Float[Array | np.ndarray, ' edges']
  counts: Int[Array | np.ndarray, ' bins']
  total: Float[Array | np.ndarray, '']
  squares: Float[Array | np.ndarray, '']


def make_histograms(
  job: Job,
) -> Callable[[TrainState, Batch], Mapping[str, Histogram]]:
  """Makes the function that shows what an update is about to do.

  Returns:
    A function of the state before an update and its batch, on the devices. It
    returns histograms, on the host, of `gradient/MODULE`, over the whole batch,
    `update/MODULE`, what is added to the parameters, and `parameter/MODULE`. It
    computes the gradient once more, so that the update itself stays as it is;
    nothing is compiled before the first call.
  """
  gradients = make_gradients(job.config, job.task)

  def look(state, batch):
    grads, _, _ = gradients(state, batch)
    updates, _ = job.optimizer.update(
      grads, state.optimizer_state, state.params
    )
    trees = {'gradient': grads, 'update': updates, 'parameter': state.params}
    found = {
      f'{kind}/{module}': histogram(arrays)
      for kind, tree in trees.items()
      for module, arrays in tree.items()
    }
    return found, {}  # There are no outcomes of examples.

  look = parallel.parallel_eval_step(look)
  return lambda state, batch: jax.device_get(look(state, batch)[0])


def histogram(arrays: Mapping[str, AnyArray]) -> Histogram:
  """Returns the histogram of the numbers in all arrays together."""
  leaves = [jnp.ravel(leaf).astype(jnp.float32) for leaf in arrays.values()]
  finite = [jnp.isfinite(leaf) for leaf in leaves]

  def over_all(combine, of_leaf):
    return combine(
      jnp.stack([of_leaf(*pair) for pair in zip(leaves, finite, strict=True)])
    )

  low = over_all(jnp.min, lambda x, ok: jnp.min(x, where=ok, initial=jnp.inf))
  high = over_all(jnp.max, lambda x, ok: jnp.max(x, where=ok, initial=-jnp.inf))
  inner = low + (high - low) / _NUM_BINS * jnp.arange(1, _NUM_BINS)
  upper = jnp.append(inner, high)
  # A pass over the numbers for each edge: on accelerators, much faster than
  # scattering each number into its bin.
  up_to = jax.lax.map(
    lambda edge: over_all(jnp.sum, lambda x, ok: jnp.sum(ok & (x <= edge))),
    upper,
  )
  return Histogram(
    edges=jnp.insert(upper, 0, low),
    counts=jnp.diff(up_to, prepend=0),
    total=over_all(jnp.sum, lambda x, ok: jnp.sum(x, where=ok)),
    squares=over_all(jnp.sum, lambda x, ok: jnp.sum(x * x, where=ok)),
  )
