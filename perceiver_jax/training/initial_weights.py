"""Weights that were learned before: to start a run from, or to evaluate."""

import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from perceiver_jax.config import Config, from_dict
from perceiver_jax.modalities.image import LearnedPositions
from perceiver_jax.model import PerceiverConfig
from perceiver_jax.training.checkpoint import CheckpointConfig
from perceiver_jax.training.compatibility import (
  HOW_COMPUTED,
  config_differences,
)
from perceiver_jax.training.state import TrainState
from perceiver_jax.weights import flat
from perceiver_jax.weights.deepmind import load_deepmind
from perceiver_jax.weights.native import Pretrained, load_pretrained

_POSITIONS = 'params/inputs/positions'
_FILE_SUFFIX = '.safetensors'
# What may differ, because the same weights then compute the same function of
# an image, or that of an image of another size.
_FREE = HOW_COMPUTED | {
  'outputs', 'grid', 'max_resolution', 'dropout_prob',
  'attention_dropout_prob', 'latent_init_scale', 'init_scale',
}  # fmt: skip


class InitialWeights(Config):
  """The weights that a run starts from, instead of random ones.

  Learned positions of images of another size are resized; all else must be of
  a model that computes the same, but for its outputs and the new modules.

  Attributes:
    path: a workdir, whose newest checkpoint is taken, or a file of
      `perceiver_jax.save_pretrained`; published files become one by
      `python -m perceiver_jax.weights convert`.
    new_modules: what starts at random nevertheless, by the beginning of its
      path: 'outputs' for a classifier of other classes.
  """

  path: str = ''
  new_modules: tuple[str, ...] = ()

  def validate(self) -> None:
    super().validate()
    if not self.path:
      raise ValueError(
        'initial_weights.path must be a workdir or a file of weights, got none.'
      )

  def check_path(self) -> None:
    """Refuses a path where nothing is, and files that say of no model.

    Raises:
      ValueError: `path` is neither a workdir nor a file of `save_pretrained`.
    """
    path = epath.Path(self.path)
    if not path.exists():
      raise ValueError(
        'initial_weights.path must be a workdir or a file of weights, got '
        f'{self.path!r}, which does not exist.'
      )
    if path.suffix != _FILE_SUFFIX and not path.is_dir():
      raise ValueError(
        'initial_weights.path must be a workdir or a file of save_pretrained, '
        f'got {self.path!r}; convert it first, by '
        '`python -m perceiver_jax.weights convert`.'
      )

  def load_into(self, state: TrainState, model: PerceiverConfig) -> TrainState:
    """Returns the first state of a run with the weights in it.

    Args:
      state: the state with random weights, as a checkpoint holds it.
      model: the model of the run.

    Raises:
      ValueError: `path` holds no weights, or none that fit.
    """
    saved = load_weights(self.path, model)
    self._check_function(saved.config, model)
    random = flat.flatten(state.params, state.model_state)
    learned = {
      key: _resized(array, saved.config, model) if key == _POSITIONS else array
      for key, array in flat.flatten(saved.params, saved.state).items()
      if not self._is_new(key)
    }
    wanted = {k: leaf for k, leaf in random.items() if not self._is_new(k)}
    if len(wanted) == len(random) and self.new_modules:
      raise ValueError(
        'new_modules must be the beginnings of paths of the model, got '
        f'{self.new_modules}, which none has.'
      )
    flat.check(self.path, learned, wanted)
    placed = {
      key: _placed_like(random[key], np.asarray(array))
      for key, array in learned.items()
    }
    params, model_state = flat.unflatten(random | placed)
    # A copy, because an update is given the memory of each.
    ema_params = jax.tree.map(
      lambda new, old: _placed_like(old, np.array(new)),
      params if state.ema_params else {},
      state.ema_params,
    )
    return state._replace(
      params=params, model_state=model_state, ema_params=ema_params
    )

  def _check_function(
    self, saved: PerceiverConfig, model: PerceiverConfig
  ) -> None:
    """Refuses weights that were learned for another function."""
    new = {module.partition('/')[0] for module in self.new_modules}
    differences = config_differences(
      saved.to_dict(), model.to_dict(), free=_FREE | new
    )
    if differences:
      raise ValueError(
        f'the model must compute what the one of {self.path} does, got other '
        'values; restore these, or name what is new in '
        f'initial_weights.new_modules:\n{differences}'
      )

  def _is_new(self, key: str) -> bool:
    path = key.partition('/')[2]
    return any(
      path == module or path.startswith(f'{module}/')
      for module in self.new_modules
    )


def load_weights(
  path: str | os.PathLike[str], model: PerceiverConfig
) -> Pretrained:
  """Reads weights from where they may be.

  Args:
    path: a workdir, whose newest checkpoint is taken; a file of
      `perceiver_jax.save_pretrained`; or a pickle that DeepMind published.
    model: what a pickle, which does not say it, is a model of.

  Raises:
    ValueError: there are no weights, or they are damaged or of another model.
    OSError: they cannot be read.
  """
  path = epath.Path(path)
  if path.is_dir():
    return load_workdir(path)
  if path.suffix == _FILE_SUFFIX:
    return load_pretrained(path)
  return Pretrained(model, *load_deepmind(path, model))


def load_workdir(workdir: str | os.PathLike[str]) -> Pretrained:
  """Returns the weights that the newest checkpoint of a run is known by.

  Raises:
    ValueError: there is none, or it is damaged.
  """
  with CheckpointConfig().make(workdir, '{}', read_only=True) as checkpointer:
    saved_json = checkpointer.saved_config_json()
    if saved_json is None:
      raise ValueError(
        f'a workdir of weights must hold a checkpoint, got {workdir} with none.'
      )
    config = from_dict(json.loads(saved_json)['model'])
    state = checkpointer.restore_as_saved()
  params = state.get('ema_params') or state['params']
  return Pretrained(config, params, state['model_state'])


def _placed_like(leaf: jax.Array, array: np.ndarray) -> jax.Array:
  """Moves what every process has to the devices that hold `leaf`."""
  return jax.make_array_from_callback(
    array.shape, leaf.sharding, array.__getitem__
  )


def _resized(
  table: Any, saved: PerceiverConfig, model: PerceiverConfig
) -> jax.Array:
  """Returns learned positions for the grid of another model."""
  old, new = (getattr(m.inputs, 'positions', None) for m in (saved, model))
  if not (
    isinstance(old, LearnedPositions) and isinstance(new, LearnedPositions)
  ):
    return table
  if old.grid == new.grid or len(old.grid) != len(new.grid):
    return table
  grid = jnp.asarray(table).reshape(*old.grid, table.shape[-1])
  shape = (*new.grid, table.shape[-1])
  return jax.image.resize(grid, shape, 'cubic').reshape(-1, table.shape[-1])
