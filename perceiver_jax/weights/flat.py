"""Parameters and state as one flat dict, and whether they fit a config.

The key of an array is `params/MODULE/NAME` or `state/MODULE/NAME`. The keys of
this package's own trees are those of `native` files.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from perceiver_jax.arrays import Params, State
from perceiver_jax.build import build_with_state
from perceiver_jax.model import PerceiverConfig

_MAX_PROBLEMS = 20


def flatten(params: Params, state: State) -> dict[str, Any]:
  """Returns every array by its key."""
  return {
    f'{tree}/{module}/{name}': array
    for tree, modules in (('params', params), ('state', state))
    for module, arrays in modules.items()
    for name, array in arrays.items()
  }


def unflatten(
  flat: Mapping[str, Any],
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
  """Returns parameters and state; the inverse of `flatten`."""
  trees: dict[str, dict[str, dict[str, Any]]] = {'params': {}, 'state': {}}
  for key, array in flat.items():
    tree, path = key.split('/', 1)
    module, name = path.rsplit('/', 1)
    trees[tree].setdefault(module, {})[name] = array
  return trees['params'], trees['state']


def expected(config: PerceiverConfig) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shape and dtype of every array of a model, by its key.

  Raises:
    ValueError: the config is inconsistent.
  """
  config = config.copy()
  config.unroll = False  # The same arrays, sooner.
  init = build_with_state(config).init
  return flatten(
    *jax.eval_shape(init, jax.random.key(0), config.inputs.example())
  )


def check(
  subject: str, given: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
  """Refuses arrays that are not exactly those that are wanted.

  Args:
    subject: what holds the arrays, for the message.
    given: arrays by key.
    wanted: what has their shapes and dtypes, by key.

  Raises:
    ValueError: arrays are missing, left over, or of a wrong shape or dtype.
  """
  problems = [
    *(f'{key} is missing' for key in wanted.keys() - given.keys()),
    *(f'{key} is left over' for key in given.keys() - wanted.keys()),
    *(
      f'{key} must be {_spelled(wanted[key])}, got {_spelled(given[key])}'
      for key in wanted.keys() & given.keys()
      if _spelled(wanted[key]) != _spelled(given[key])
    ),
  ]
  if not problems:
    return
  shown = sorted(problems)[:_MAX_PROBLEMS]
  if len(problems) > len(shown):
    shown.append(f'and {len(problems) - len(shown)} more')
  raise ValueError(
    f'{subject} must hold the {totals(wanted.values())} of the config, got '
    f'{totals(given.values())}: {"; ".join(shown)}.'
  )


def totals(arrays: Iterable[Any]) -> str:
  """Says how many arrays there are, and how many numbers in them."""
  sizes = [math.prod(jnp.shape(array)) for array in arrays]
  return f'{len(sizes)} arrays ({sum(sizes):,} numbers)'


def _spelled(array: Any) -> str:
  return f'{array.dtype} of shape {tuple(array.shape)}'
