"""Whether a saved run fits the one at hand, and where it does not."""

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax
from absl import logging

from perceiver_jax.config import from_dict

# Fields of a model that say how, not what, it computes: a run that has too
# little memory goes on with remat, and any weights are evaluated in bfloat16.
HOW_COMPUTED = frozenset(
  {
    'precision',
    'unroll',
    'remat',
    'algorithm',
    'query_algorithm',
    'query_chunk_size',
  }
)

# What each part of a `TrainState` is for, and the field that decides on it.
_PARTS = {
  'params': 'model',
  'model_state': 'model',
  'optimizer_state': 'optimizer',
  'ema_params': 'running mean of the parameters (ema_decay)',
  'loss_scale': 'scale of the loss (loss_scaling)',
}
_NOTHING = 'nothing'
_MAX_LINES = 20


def check_run(
  saved_json: str, current: Mapping[str, Any], *, workdir: str
) -> None:
  """Refuses a run of another model, and logs what else is not the same.

  Args:
    saved_json: the config of the run, as its checkpoint has it.
    current: that of the run at hand, as `Config.to_dict` describes it.
    workdir: the directory of both, for messages.

  Raises:
    ValueError: see `check_config`.
  """
  saved = json.loads(saved_json)
  # Fields that came later take their defaults, if the class is still known.
  with contextlib.suppress(ValueError, TypeError, AttributeError):
    saved['model'] = from_dict(saved['model']).to_dict()
  check_config(saved['model'], current['model'], workdir=workdir)
  if differences := config_differences(saved, current):
    logging.warning(
      'the run in %s had another config before:\n%s', workdir, differences
    )


def check_config(
  saved: Mapping[str, Any], current: Mapping[str, Any], *, workdir: str
) -> None:
  """Refuses a working directory that was written with another model.

  Args:
    saved: the config of the model in the directory, as `Config.to_dict`
      describes it.
    current: the same of this run.
    workdir: the directory, for the message.

  Raises:
    ValueError: a field differs that is not one of `HOW_COMPUTED`; the message
      lists each by its dotted path.
  """
  differences = config_differences(saved, current, free=HOW_COMPUTED)
  if differences:
    raise ValueError(
      f'the config must be the one that {workdir} was written with, got other '
      f'values; take another workdir, or restore these:\n{differences}'
    )


def config_differences(
  saved: Mapping[str, Any],
  current: Mapping[str, Any],
  *,
  free: Collection[str] = (),
) -> str:
  """Returns a line for each field that differs, by its dotted path.

  Args:
    saved: a config, as `Config.to_dict` describes it.
    current: another.
    free: names of fields, and of parts with all their fields, that may differ.
  """
  both = (
    {
      path: value
      for path, value in _fields(config)
      if not set(path.split('.')) & set(free)
    }
    for config in (saved, current)
  )
  return _differences(*both)


def check_arrays(
  saved: Mapping[str, str], expected: Mapping[str, str], *, source: str
) -> None:
  """Refuses a checkpoint whose arrays are not those of this run.

  Args:
    saved: its `spelled_arrays`.
    expected: those of the state that it is to be.
    source: what holds `saved`, for the message.

  Raises:
    ValueError: an array is missing, superfluous, or of another shape or dtype;
      the message says what these are for, and lists each by its path.
  """
  paths = sorted(path for path, _ in saved.items() ^ expected.items())
  if paths:
    names = (path.partition('/')[0] for path in paths)
    parts = dict.fromkeys(_PARTS.get(name, name) for name in names)
    raise ValueError(
      f'{source} must have the same {" and ".join(parts)} as this run, got '
      'other arrays; take another workdir, or restore the config:\n'
      f'{_differences(dict(saved), dict(expected))}'
    )


def _differences(saved: dict[str, Any], current: dict[str, Any]) -> str:
  """Returns one line for each entry that is not the same in both."""
  lines = [
    f'  {path}: saved {saved.get(path, _NOTHING)}, '
    f'now {current.get(path, _NOTHING)}'
    for path in saved | current
    if saved.get(path, _NOTHING) != current.get(path, _NOTHING)
  ]
  if len(lines) > _MAX_LINES:
    hidden = len(lines) - _MAX_LINES
    lines = [*lines[:_MAX_LINES], f'  and {hidden} more']
  return '\n'.join(lines)


def _fields(value: Any, path: str = '') -> Iterator[tuple[str, Any]]:
  """Yields the dotted path and the value of every leaf of nested dicts."""
  if isinstance(value, tuple):
    value = list(value)  # As JSON has it.
  if isinstance(value, Mapping):
    children = list(value.items())
  else:
    children = list(enumerate(value)) if isinstance(value, list) else []
  if path and not children:
    yield path, repr(value)
  for name, child in children:
    yield from _fields(child, f'{path}.{name}' if path else str(name))


def spelled_arrays(tree: Any) -> dict[str, str]:
  """Returns dtype and shape of every array by its path: `float32[3,4]`."""
  return {
    path: f'{leaf.dtype}[{",".join(map(str, leaf.shape))}]'
    for path, leaf in array_paths(tree).items()
  }


def array_paths(tree: Any) -> dict[str, Any]:
  """Returns every array of a tree by its path, keys of JAX as their data.

  Containers of other types give the same paths: a dict those of a NamedTuple.
  """
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  paths = {}
  for path, leaf in leaves:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      is_array = isinstance(leaf, jax.Array)
      data = jax.random.key_data
      leaf = data(leaf) if is_array else jax.eval_shape(data, leaf)
    paths[jax.tree_util.keystr(path, simple=True, separator='/')] = leaf
  return paths
