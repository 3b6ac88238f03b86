"""Running a per-device step on all devices: the one place that says pmap.

State is replicated and keeps the plain shapes of a single copy; batches carry
a leading axis of local devices. State that is divided among the devices has
such an axis before the one along which it is divided; its sharding says where.
Another way to run the same per-device functions (shard_map, say) would replace
this file alone.

With many processes, each calls the steps with its own part of the batch and
sees only what its own devices return: arrays that are *local*. Checkpoints
hold state that is *global*, of all processes, and in plain shapes, divided or
not. `as_global` and `as_local` turn one into the other and move nothing between
devices. In one process, what is not divided is the same.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import PyTreeDef

from perceiver_jax.arrays import DEVICE_AXIS
from perceiver_jax.training.sharding import shard_axis


class ParallelStep:
  """A per-device step on all devices; every call takes a state and a batch.

  Args:
    step: of a device's share of both; its results are two.
    takes_state: whether the first result is a new state, which takes over the
      memory of the old one.
    second_axis: the axis of devices in the second result; None: it is the same
      on all devices.
  """

  def __init__(
    self, step: Callable, *, takes_state: bool, second_axis: int | None
  ) -> None:
    # Flat, because pmap of many processes takes no axes of trees with dicts.
    @functools.cache
    def compiled(axes: tuple[int | None, ...], tree: PyTreeDef) -> Callable:
      def flat_step(leaves: tuple[Any, ...], batch: Any) -> tuple[Any, Any]:
        first, second = step(jax.tree.unflatten(tree, leaves), batch)
        return tuple(
          tree.flatten_up_to(first)
        ) if takes_state else first, second

      return jax.pmap(
        flat_step,
        axis_name=DEVICE_AXIS,
        in_axes=(axes, 0),
        out_axes=(axes if takes_state else None, second_axis),
        donate_argnums=0 if takes_state else (),
      )

    self._compiled, self._takes_state = compiled, takes_state

  def __call__(self, state: Any, batch: Any) -> tuple[Any, Any]:
    leaves, tree = jax.tree.flatten(state)
    first, second = self._on_devices(leaves, tree)(tuple(leaves), batch)
    if jax.default_backend() == 'cpu' and jax.device_count() > 1:
      # The collectives of virtual CPU devices share one pool of threads: with
      # several calls under way, the threads can all wait for partners that
      # have none left to run on.
      jax.block_until_ready((first, second))
    if self._takes_state:
      first = jax.tree.unflatten(tree, first)
    return first, second

  def lower(self, state: Any, batch: Any) -> jax.stages.Lowered:
    """Returns the program of all devices; in a single process only.

    Args:
      state: arrays, or shapes with the shardings of arrays.
      batch: arrays or shapes.
    """
    leaves, tree = jax.tree.flatten(state)
    return self._on_devices(leaves, tree).lower(tuple(leaves), batch)

  def _on_devices(self, leaves: list[Any], tree: PyTreeDef) -> Callable:
    return self._compiled(tuple(map(_device_axis, leaves)), tree)


def parallel_train_step(step: Callable) -> ParallelStep:
  """Runs `(state, batch) -> (state, metrics)` everywhere; donates the state."""
  return ParallelStep(step, takes_state=True, second_axis=None)


def parallel_eval_step(step: Callable) -> ParallelStep:
  """Runs `(state, batch) -> (sums, outcomes of each share)` everywhere."""
  return ParallelStep(step, takes_state=False, second_axis=0)


def replicated() -> NamedSharding:
  """Returns how state lies on the local devices: a copy on each.

  It is the sharding that the steps return, so that a first state placed with
  it does not make them compile twice.
  """
  return NamedSharding(_mesh().local_mesh, PartitionSpec())


def placed_globally(state: Any, *, is_divided: bool = False) -> Any:
  """Returns a state with how it lies in a checkpoint: as global arrays.

  Args:
    state: shapes and dtypes.
    is_divided: whether the devices divide it, where they can do so evenly; else
      each has a copy.
  """

  def place(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    axis = shard_axis(leaf.shape, jax.device_count()) if is_divided else None
    sharding = NamedSharding(_mesh(), _spec(axis))
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

  return jax.tree.map(place, state)


def as_global(state: Any) -> Any:
  """Returns local state as this process's part of that in a checkpoint."""

  def shape(leaf: jax.Array, axis: int) -> tuple[int, ...]:
    count, size, *rest = leaf.shape[axis:]
    return (*leaf.shape[:axis], count * size, *rest)

  return _reshape_divided(_globalised(state), shape)


def as_local(saved: Any) -> Any:
  """Returns this process's part of a global state, as the steps take it."""
  saved = _reshape_divided(saved, _local_shape)
  if jax.process_count() == 1:
    return saved
  return jax.tree.map(
    lambda leaf: multihost_utils.global_array_to_host_local_array(
      leaf, _mesh(), leaf.sharding.spec
    ),
    saved,
  )


def described_locally(saved: Any) -> Any:
  """Does to shapes what `as_local` does to arrays, in a single process.

  Args:
    saved: shapes of a state, placed globally.
  """

  def describe(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    axis = _device_axis(leaf)
    shape = leaf.shape if axis is None else _local_shape(leaf, axis)
    return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=leaf.sharding)

  return jax.tree.map(describe, saved)


def put_batch(batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
  """Moves a batch with leaves [local_devices, per_device, ...] to devices."""
  sharding = NamedSharding(_mesh().local_mesh, PartitionSpec(DEVICE_AXIS))
  return jax.device_put(dict(batch), sharding)


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
  return multihost_utils.process_allgather(_globalised(tree), tiled=True)


@functools.cache
def _mesh() -> Mesh:
  """Returns all devices in the order of pmap: those of a process together."""
  devices = [
    device
    for process in range(jax.process_count())
    for device in jax.local_devices(process)
  ]
  return Mesh(np.array(devices), (DEVICE_AXIS,))


def _globalised(tree: Any) -> Any:
  """Returns local arrays as this process's part of those of all processes."""
  if jax.process_count() == 1:
    return tree
  return jax.tree.map(
    lambda leaf: multihost_utils.host_local_array_to_global_array(
      leaf, _mesh(), leaf.sharding.spec
    ),
    tree,
  )


def _spec(axis: int | None) -> PartitionSpec:
  """Returns how an array lies that is divided along an axis, if it is."""
  if axis is None:
    return PartitionSpec()
  return PartitionSpec(*[None] * axis, DEVICE_AXIS)


def _device_axis(leaf: Any) -> int | None:
  """Returns the axis along which an array is divided; None: it is not."""
  sharding = getattr(leaf, 'sharding', None)
  spec = getattr(sharding, 'spec', PartitionSpec())
  return spec.index(DEVICE_AXIS) if DEVICE_AXIS in spec else None


def _local_shape(leaf: Any, axis: int) -> tuple[int, ...]:
  """Returns the shape with an axis of devices before the divided one."""
  count = jax.device_count()
  size = leaf.shape[axis] // count
  return (*leaf.shape[:axis], count, size, *leaf.shape[axis + 1 :])


def _reshape_divided(
  tree: Any, shape: Callable[[jax.Array, int], tuple[int, ...]]
) -> Any:
  """Gives what is divided another shape, and leaves it where it is."""
  leaves, structure = jax.tree.flatten(tree)
  axes = list(map(_device_axis, leaves))
  divided = [i for i, axis in enumerate(axes) if axis is not None]
  if not divided:
    return tree
  reshape = _reshape(
    tuple(shape(leaves[i], axes[i]) for i in divided),
    tuple(NamedSharding(_mesh(), _spec(axes[i])) for i in divided),
  )
  for i, leaf in zip(
    divided, reshape([leaves[i] for i in divided]), strict=True
  ):
    leaves[i] = leaf
  return jax.tree.unflatten(structure, leaves)


@functools.cache
def _reshape(
  shapes: tuple[tuple[int, ...], ...], shardings: tuple[NamedSharding, ...]
) -> Callable[[list[jax.Array]], list[jax.Array]]:
  def reshape(leaves: list[jax.Array]) -> list[jax.Array]:
    return [a.reshape(s) for a, s in zip(leaves, shapes, strict=True)]

  return jax.jit(reshape, out_shardings=list(shardings))
