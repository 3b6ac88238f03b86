"""Blocks as pure functions, and their repetition by scan or by a loop.

A Perceiver applies the same few blocks many times. Here a block is a pure
function of its parameters, so that shared weights are simply the same
argument, and a stack of layers runs under `jax.lax.scan`: the time to trace
and compile does not grow with depth. Parameters stay separate arrays with
stable names, one set a layer, whichever way the layers run.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
from jaxtyping import Array

from perceiver_jax.arrays import Params, Rng


class Remat(enum.Enum):
  """What of a block the backward pass computes again instead of storing it.

  Attributes:
    NONE: nothing; the fastest where memory suffices.
    CHEAP: norms, attention weights, the MLP's hidden channels, and what a
      cross-attend makes of its inputs; stored are the block's inputs, queries
      and outputs of attention, and keys and values of a self-attend.
    ALL: the block, from its inputs: the least memory, for a forward pass more.
  """

  NONE = enum.auto()
  CHEAP = enum.auto()
  ALL = enum.auto()

  @classmethod
  def of_bool(cls, value: bool) -> 'Remat':
    """Returns what a config says that was saved when this was a switch."""
    return cls.ALL if value else cls.NONE


# Stored outputs of linear layers go by the names of these.
_POLICIES = {
  Remat.CHEAP: jax.checkpoint_policies.save_only_these_names(
    'query', 'key', 'value', 'output'
  ),
  Remat.ALL: jax.checkpoint_policies.nothing_saveable,
}


class Block:
  """A Haiku function as a pure function whose parameters live in this scope.

  Args:
    function: creates Haiku modules in the current scope and applies them to
      arrays, with the keyword `is_training`.
    remat: what the backward pass computes again.
  """

  def __init__(self, function: Callable[..., Any], *, remat: Remat):
    self._transformed = hk.transform(function)
    self._remat = remat

  def parameters(self, name: str, *arrays: Any) -> Params:
    """Returns the parameters in the scope `name`, created if initialising.

    Args:
      name: of the scope, within the current Haiku module.
      *arrays: what the block will be applied to; only shapes matter.
    """
    create = hk.lift(
      lambda rng, *args: self._transformed.init(rng, *args, is_training=False),
      name=name,
    )
    return create(hk.next_rng_key() if hk.running_init() else None, *arrays)

  def __call__(
    self,
    params: Params,
    rng: Rng | None,
    *arrays: Any,
    is_training: bool,
  ) -> Any:
    """Applies the block with the given parameters."""

    def apply(params, rng, *arrays):
      return self._transformed.apply(
        params, rng, *arrays, is_training=is_training
      )

    if self._remat is not Remat.NONE:
      apply = jax.checkpoint(apply, policy=_POLICIES[self._remat])
    return apply(params, rng, *arrays)


def stack(layers: Sequence[Any], *, unroll: bool) -> Any:
  """Prepares the parameters of layers for `repeat`: stacked, or as a list.

  Args:
    layers: one tree of parameters a layer, all of the same structure. None
      for a layer that needs none of its own.
    unroll: what `repeat` will be told.
  """
  if unroll:
    return list(layers)
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)


def repeat(
  body: Callable[[Array, Any, Rng | None], Array],
  array: Array,
  layers: Any,
  rng: Rng | None,
  *,
  length: int,
  unroll: bool,
) -> Array:
  """Applies `array = body(array, layer, rng)` once for each layer.

  Args:
    body: one step; its rng is its own, or None.
    array: the start.
    layers: what `stack` returned.
    rng: a key for all steps, or None.
    length: number of layers.
    unroll: a Python loop instead of `jax.lax.scan`; the numbers are the same.

  Returns:
    The array after the last step.
  """
  rngs = None if rng is None else jax.random.split(rng, length)
  if not unroll:
    array, _ = jax.lax.scan(
      lambda carry, step: (body(carry, *step), None),
      array,
      (layers, rngs),
      length=length,
    )
    return array
  for i in range(length):
    array = body(array, layers[i], None if rngs is None else rngs[i])
  return array
