"""The files in `configs/` as modules."""

import importlib.util
import pathlib
import types

DIRECTORY = pathlib.Path(__file__).parents[1] / 'configs'


def load(name: str) -> types.ModuleType:
  """Returns the module of `configs/NAME.py`."""
  spec = importlib.util.spec_from_file_location(name, DIRECTORY / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
