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
    found = histograms(
      {
        f'{kind}/{module}': arrays
        for kind, tree in trees.items()
        for module, arrays in tree.items()
      }
    )
    return found, {}  # There are no outcomes of examples.

  look = parallel.parallel_eval_step(look)
  return lambda state, batch: jax.device_get(look(state, batch)[0])


def histograms(
  groups: Mapping[str, Mapping[str, AnyArray]],
) -> dict[str, Histogram]:
  """Returns the histogram of the numbers in all arrays of each group."""
  numbers = {
    name: [jnp.asarray(array, jnp.float32) for array in arrays.values()]
    for name, arrays in groups.items()
  }
  lows = {
    name: jnp.min(jnp.stack([_least(x) for x in some]))
    for name, some in numbers.items()
  }
  highs = {
    name: -jnp.min(jnp.stack([_least(-x) for x in some]))
    for name, some in numbers.items()
  }
  uppers = {name: _upper_edges(lows[name], highs[name]) for name in numbers}
  # A pass over the numbers for each edge: on accelerators, much faster than
  # scattering each number into its bin. One loop of all compiles quickly.
  up_to = jax.lax.map(
    lambda edges: {
      name: sum(jnp.sum(jnp.isfinite(x) & (x <= edges[name])) for x in some)
      for name, some in numbers.items()
    },
    uppers,
  )
  return {
    name: Histogram(
      edges=jnp.insert(uppers[name], 0, lows[name]),
      counts=jnp.diff(up_to[name], prepend=0),
      total=sum(_sum_of_finite(x) for x in some),
      squares=sum(_sum_of_finite(x * x) for x in some),
    )
    for name, some in numbers.items()
  }


def _least(numbers: Float[Array, '...']) -> Float[Array, '']:
  return jnp.min(numbers, where=jnp.isfinite(numbers), initial=jnp.inf)


def _sum_of_finite(numbers: Float[Array, '...']) -> Float[Array, '']:
  return jnp.sum(numbers, where=jnp.isfinite(numbers))


def _upper_edges(
  low: Float[Array, ''], high: Float[Array, '']
) -> Float[Array, ' bins']:
  inner = low + (high - low) / _NUM_BINS * jnp.arange(1, _NUM_BINS)
  return jnp.append(inner, high)
