"""The package's own file: a safetensors file that knows its model.

Its arrays are the parameters and state under the names of this package; its
metadata holds the config as JSON. Nothing in it is executed: the config may
name classes of this package (and `Config` classes that the caller has
imported), and arrays are bytes.
"""

import importlib
import pkgutil
from typing import NamedTuple

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
    wanted = flat.expected(config)
  except Exception as error:  # Damaged values may raise anything.
    raise ValueError(
      f'{path} must hold the config of a model, got: {error}'
    ) from error
  flat.check(f'{path}', arrays, wanted)
  return Pretrained(config, *flat.unflatten(jax.tree.map(jnp.asarray, arrays)))
