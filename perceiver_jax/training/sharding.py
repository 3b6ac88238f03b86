"""Dividing state among the devices: each keeps and updates its share.

An array is divided along one of its axes, so that a checkpoint holds it in its
plain shape, whatever the number of devices. Only what treats every number of an
array on its own is computed of shares. Norms, of all gradients or of the update
of an array, are computed of whole arrays, and so are exactly those of a run
that divides nothing.

Source: the first stage of ZeRO, Rajbhandari et al. (arXiv 1910.02054).
"""

from collections.abc import Sequence
from typing import Any

import jax
import optax
from jax import lax

from perceiver_jax.arrays import DEVICE_AXIS


def shard_axis(shape: Sequence[int], num_devices: int) -> int | None:
  """Returns the axis along which an array is divided; None: each has it whole.

  It is the first that the devices can share evenly.
  """
  if num_devices == 1:
    return None
  even = (a for a, size in enumerate(shape) if size and not size % num_devices)
  return next(even, None)


def share(tree: Any) -> Any:
  """Returns this device's share of whole arrays, in a per-device function."""
  count = lax.axis_size(DEVICE_AXIS)

  def cut(array: jax.Array) -> jax.Array:
    axis = shard_axis(array.shape, count)
    if axis is None:
      return array
    size = array.shape[axis] // count
    start = lax.axis_index(DEVICE_AXIS) * size
    return lax.dynamic_slice_in_dim(array, start, size, axis)

  return jax.tree.map(cut, tree)


def unshare(shares: Any, like: Any) -> Any:
  """Returns the whole arrays of shares, in a per-device function.

  Args:
    shares: what `share` returns on each device; whole arrays stay as they are.
    like: arrays of the whole shapes.
  """

  def join(part: jax.Array, whole: jax.Array) -> jax.Array:
    if part.shape == whole.shape:
      return part
    axis = shard_axis(whole.shape, lax.axis_size(DEVICE_AXIS))
    return lax.all_gather(part, DEVICE_AXIS, axis=axis, tiled=True)

  return jax.tree.map(join, shares, like)


def shared(inner: optax.GradientTransformation) -> optax.GradientTransformation:
  """Lets each device keep and update its share of the state.

  Args:
    inner: treats every number of an array on its own, as Adam and momentum do.

  Returns:
    A transformation of whole gradients to whole updates. `init` returns the
    whole state, `update` takes and returns shares of it, in a per-device
    function.
  """

  def update(
    updates: optax.Updates, state: Any, params: optax.Params | None = None
  ) -> tuple[optax.Updates, Any]:
    params = None if params is None else share(params)
    shares, state = inner.update(share(updates), state, params)
    return unshare(shares, like=updates), state

  return optax.GradientTransformation(inner.init, update)
