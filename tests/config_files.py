"""The files in `configs/` as modules."""

import importlib.util
import pathlib
import sys
import types

from absl import flags

from perceiver_jax.training import command_line
from perceiver_jax.training.config import TrainConfig

DIRECTORY = pathlib.Path(__file__).parents[1] / 'configs'


def load(name: str) -> types.ModuleType:
  """Returns the module of `configs/NAME.py`."""
  spec = importlib.util.spec_from_file_location(name, DIRECTORY / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def from_flags(*arguments: str) -> TrainConfig:
  """Returns the config as `train.py` would get it by these flags."""
  # The import system would run a second file in the namespace of the first.
  sys.modules.pop('config_config', None)
  argv = ['train.py', *arguments]
  flag_values = flags.FlagValues()
  config = command_line.define_config(flag_values, argv)
  assert command_line.parse_flags(argv, flag_values) == ['train.py']
  return config.value
