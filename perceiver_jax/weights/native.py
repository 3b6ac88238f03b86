"""The package's own file: a safetensors file that knows its model.

Its arrays are the parameters and state under the names of this package; its
metadata holds the config as JSON. Nothing in it is executed: the config may
name classes of this package (and `Config` classes that the caller has
imported), and arrays are bytes.
"""

import importlib
import math
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from perceiver_jax import modalities
from perceiver_jax.arrays import Params, State
from perceiver_jax.config import from_json
from perceiver_jax.model import PerceiverConfig
from perceiver_jax.weights import files, flat

# A saved config may name the classes of any modality.
for _module in pkgutil.iter_modules(modalities.__path__):
  importlib.import_module(f'{modalities.__name__}.{_module.name}')

_CONFIG = 'perceiver_jax.config'
# Sizes of which a file need not hold anything, such as that of a video: more
# than this are believed of larger files only.
_MAX_SIZE = 2**24


class Pretrained(NamedTuple):
  """A model and its weights.

  Attributes:
    config: describes the model: `perceiver_jax.build(config)`, or
      `build_with_state(config)` if it keeps batch statistics.
    params: its parameters.
    state: its batch statistics; {} if it keeps none.
  """

  config: PerceiverConfig
  params: Params
  state: State


def save_pretrained(
  path: files.Path,
  config: PerceiverConfig,
  params: Params,
  state: State | None = None,
) -> None:
  """Writes a model and its weights to one file.

  A file that is there is replaced at once, when the new one is complete.

  Args:
    path: of the file, by convention `*.safetensors`; its directory must exist.
    config: describes the model.
    params: what `init` returned, trained or not.
    state: its batch statistics; None or {} if it keeps none.

  Raises:
    ValueError: the weights are not those of the config.
    OSError: the file cannot be written.
  """
  arrays = flat.flatten(params, state or {})
  flat.check('params and state', arrays, flat.expected(config))
  files.write_safetensors(path, arrays, {_CONFIG: config.to_json()})


def load_pretrained(path: files.Path) -> Pretrained:
  """Reads a model and its weights from a file of `save_pretrained`.

  Raises:
    ValueError: the file is damaged, is no file of `save_pretrained`, or its
      weights are not those of its config; the message names the file.
    OSError: there is no such file, or it cannot be read.
  """
  arrays, metadata = files.read_safetensors(path)
  if _CONFIG not in metadata:
    raise ValueError(
      f'{path} must be written by save_pretrained, got a safetensors file '
      'without a config; files of others need '
      '`python -m perceiver_jax.weights convert`.'
    )
  try:
    config = from_json(metadata[_CONFIG])
    if not isinstance(config, PerceiverConfig):
      raise ValueError(f'its class is {type(config).__name__}')
    _check_sizes(config, arrays)
    wanted = flat.expected(config)
  except Exception as error:  # Damaged values may raise anything.
    raise ValueError(
      f'{path} must hold the config of a model, got: {error}'
    ) from error
  flat.check(f'{path}', arrays, wanted)
  return Pretrained(config, *flat.unflatten(jax.tree.map(jnp.asarray, arrays)))


def _check_sizes(config: PerceiverConfig, arrays: Mapping[str, Any]) -> None:
  """Refuses what would take long to trace, and cannot be of these arrays.

  A file of a few bytes can describe a model of any size.

  Raises:
    ValueError: the config has more layers or larger sizes than the arrays can
      belong to.
  """
  blocks, crosses = config.num_blocks, config.num_cross_attends
  per_block = config.num_self_attends_per_block
  own = per_block * (1 if config.share_blocks else blocks)
  own += 1 if config.share_cross_attends else crosses
  if own > len(arrays):
    raise ValueError(
      'each layer must have an array of its own or more, got '
      f'{own} layers and {len(arrays)} arrays'
    )
  num_numbers = sum(array.size for array in arrays.values())
  largest = max(_sizes(config.to_dict()))
  limit = max(num_numbers, _MAX_SIZE)
  if largest > limit:
    raise ValueError(
      f'sizes must be at most {limit:,} with {num_numbers:,} parameters, got '
      f'{largest:,}'
    )
  depth = per_block * blocks + crosses
  if depth > num_numbers:
    raise ValueError(
      f'the layers, shared ones too, must be at most {num_numbers:,}, as many '
      f'as there are parameters, got {depth:,}'
    )


def _sizes(encoded: Any) -> Iterator[int]:
  """Yields every whole number of a config; of a tuple of them the product."""
  if isinstance(encoded, dict):
    for name, value in encoded.items():
      if not name.endswith('_seed'):
        yield from _sizes(value)
  elif isinstance(encoded, list):
    numbers = [value for value in encoded if type(value) is int]
    yield math.prod(numbers)
    for value in encoded:
      yield from _sizes(value)
  elif type(encoded) is int:
    yield encoded
