"""Running a per-device step on all devices: the one place that says pmap.

State is replicated and keeps the plain shapes of a single copy; batches carry
a leading axis of local devices. Another way to run the same per-device
functions (shard_map, say) would replace this file alone.

With many processes, each calls the steps with its own part of the batch and
sees only what its own devices return: arrays that are *local*. Checkpoints
hold arrays that are *global*, of all processes; `as_global` and `as_local` turn
one into the other without moving anything. In one process they are the same.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
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
  """Returns how state lies on the local devices: a copy on each.

  It is the sharding that the steps return, so that a first state placed with
  it does not make them compile twice.
  """
  return NamedSharding(_mesh().local_mesh, PartitionSpec())


def replicated_globally() -> NamedSharding:
  """Returns how state lies in a checkpoint: a copy on each device there is."""
  return NamedSharding(_mesh(), PartitionSpec())


def put_batch(batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
  """Moves a batch with leaves [local_devices, per_device, ...] to devices."""
  sharding = NamedSharding(_mesh().local_mesh, PartitionSpec(DEVICE_AXIS))
  return jax.device_put(dict(batch), sharding)


def as_global(tree: Any) -> Any:
  """Returns local arrays as this process's part of those of all processes."""
  if jax.process_count() == 1:
    return tree
  return jax.tree.map(
    lambda leaf: multihost_utils.host_local_array_to_global_array(
      leaf, _mesh(), leaf.sharding.spec
    ),
    tree,
  )


def as_local(tree: Any) -> Any:
  """Returns this process's part of global arrays."""
  if jax.process_count() == 1:
    return tree
  return jax.tree.map(
    lambda leaf: multihost_utils.global_array_to_host_local_array(
      leaf, _mesh(), leaf.sharding.spec
    ),
    tree,
  )


def gather(tree: Any) -> Any:
  """Brings local arrays of every process to the host of each.

  All processes must call it, with arrays of the same shapes.

  Args:
    tree: arrays as `put_batch` and the steps place them.

  Returns:
    NumPy arrays of all processes. Those with a leading axis of devices have
    one of all devices, in the order of the global batch.
  """
  if jax.process_count() == 1:
    return jax.device_get(tree)
  return multihost_utils.process_allgather(as_global(tree), tiled=True)


@functools.cache
def _mesh() -> Mesh:
  """Returns all devices in the order of pmap: those of a process together."""
  devices = [
    device
    for process in range(jax.process_count())
    for device in jax.local_devices(process)
  ]
  return Mesh(np.array(devices), (DEVICE_AXIS,))


def _one_at_a_time_on_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
  """Waits for each call on virtual CPU devices.

  Their collectives share one pool of threads: with several calls under way,
  the threads can all wait for partners that have none left to run on.
  """
  if jax.default_backend() != 'cpu' or jax.device_count() == 1:
    return function
  return lambda *args: jax.block_until_ready(function(*args))
