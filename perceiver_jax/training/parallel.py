"""Running a per-device step on all devices: the one place that says pmap.

State is replicated and keeps the plain shapes of a single copy; batches carry
a leading axis of local devices. Another way to run the same per-device
functions (shard_map, say) would replace this file alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from perceiver_jax.arrays import DEVICE_AXIS


def parallel_train_step(step: Callable) -> Callable:
  """Runs `(state, batch) -> (state, metrics)` everywhere; donates the state."""
  return _one_at_a_time_on_cpu(
    jax.pmap(
      step,
      axis_name=DEVICE_AXIS,
      in_axes=(None, 0),
      out_axes=None,
      donate_argnums=0,
    )
  )


def parallel_eval_step(step: Callable) -> Callable:
  """Runs `(state, batch) -> (sums, outcomes of each share)` everywhere."""
  return _one_at_a_time_on_cpu(
    jax.pmap(step, axis_name=DEVICE_AXIS, in_axes=(None, 0), out_axes=(None, 0))
  )


def replicated() -> NamedSharding:
  """Returns how state lies on the devices: a copy on each.

  It is the sharding that the steps return, so that a first state placed with
  it does not make them compile twice.
  """
  return NamedSharding(_mesh(), PartitionSpec())


def put_batch(batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
  """Moves a batch with leaves [local_devices, per_device, ...] to devices."""
  sharding = NamedSharding(_mesh(), PartitionSpec(DEVICE_AXIS))
  return jax.device_put(dict(batch), sharding)


def _mesh() -> Mesh:
  return Mesh(np.array(jax.local_devices()), (DEVICE_AXIS,))


def _one_at_a_time_on_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
  """Waits for each call on virtual CPU devices.

  Their collectives share one pool of threads: with several calls under way,
  the threads can all wait for partners that have none left to run on.
  """
  if jax.default_backend() != 'cpu' or jax.device_count() == 1:
    return function
  return lambda *args: jax.block_until_ready(function(*args))
