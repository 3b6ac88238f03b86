"""Pickles of Haiku parameters, read without running anything in them.

A pickle is a program that may import and call whatever it names. Here a name is
never imported: the few that parameters need stand for the classes of this file,
which do nothing but hold what they are given, and any other name is refused. No
code of Haiku, JAX or NumPy that reads pickles is used either.
"""

import pickle
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from perceiver_jax.arrays import Params, State
from perceiver_jax.weights import files


def read_pickle(path: files.Path) -> tuple[Params, State]:
  """Reads parameters and state as DeepMind published them.

  Args:
    path: of a pickle of {'params': params, 'state': state}, or of params alone,
      each {module path: {name: array}}; of protocol 3 or higher, since in older
      ones arrays are calls of `_codecs.encode`.

  Returns:
    Both as plain dicts of NumPy arrays; the state is {} where there is none.

  Raises:
    ValueError: the file asks for anything but Haiku's mappings and arrays, of
      which it then has run nothing; or it is damaged, or no such pickle.
    OSError: there is no such file, or it cannot be read.
  """
  with open(path, 'rb') as file:
    try:
      tree = _Unpickler(file).load()
    except Exception as error:  # Damaged bytes may raise anything.
      raise ValueError(
        f'{path} must be a pickle of Haiku mappings and arrays only, got: '
        f'{type(error).__name__}: {error}'
      ) from error
  try:
    if isinstance(tree, Mapping) and tree.keys() >= {'params', 'state'}:
      surplus = tree.keys() - {'params', 'state'}
      if surplus:
        names = ', '.join(sorted(map(repr, surplus)))
        raise _NoParametersError(f'{names} beside params and state')
      return _arrays(tree['params']), _arrays(tree['state'])
    return _arrays(tree), {}
  except _NoParametersError as error:
    raise ValueError(
      f'{path} must hold {{module: {{name: array}}}}, or these as params and '
      f'state, got {error}.'
    ) from error


def write_pickle(path: files.Path, params: Params, state: State) -> None:
  """Writes what `read_pickle` reads, as plain dicts of NumPy arrays.

  `pickle.load` needs NumPy 1.26 or later, which knows where NumPy 2 has its
  core.

  Raises:
    OSError: the file cannot be written.
  """
  trees = {'params': _plain(params), 'state': _plain(state)}

  def write(part):
    with part.open('wb') as file:
      # The lowest in which an array is made of bytes; any Python 3 reads it.
      pickle.dump(trees if state else trees['params'], file, protocol=3)

  files.write_whole(path, write)


def _plain(tree: Params) -> dict[str, dict[str, np.ndarray]]:
  return {
    module: {name: np.asarray(array) for name, array in arrays.items()}
    for module, arrays in tree.items()
  }


class _NoParametersError(Exception):
  """The tree in the pickle is none of parameters; says what it has."""


def _arrays(tree: Any) -> dict[str, dict[str, np.ndarray]]:
  """Returns a tree of parameters as plain dicts."""
  return {
    _name(module): {
      _name(name): _array(array) for name, array in _items(arrays)
    }
    for module, arrays in _items(tree)
  }


def _items(tree: Any) -> list[tuple[Any, Any]]:
  if not isinstance(tree, dict):
    raise _NoParametersError(f'{type(tree).__name__} in place of a mapping')
  return list(tree.items())


def _name(key: Any) -> str:
  if not isinstance(key, str):
    raise _NoParametersError(f'{type(key).__name__} in place of a name')
  return key


def _array(leaf: Any) -> np.ndarray:
  if not isinstance(leaf, _Array) or leaf.array is None:
    raise _NoParametersError(f'{type(leaf).__name__} in place of an array')
  return leaf.array


class _StandIn:
  """What a name in a pickle stands for.

  A pickle can set the attributes of any object it gets hold of, classes too,
  unless `__setstate__` says otherwise; on a class it fails for want of `self`.
  """

  def __setstate__(self, state: Any) -> None:
    raise pickle.UnpicklingError('attributes, where none can be set.')


class _Mapping(_StandIn, dict):
  """Haiku's FlatMapping of any age; an OrderedDict."""

  def __setstate__(self, state: Any) -> None:
    # Old frozendicts have no constructor but slots: (None, {slot: value}).
    _, slots = state
    self.update(slots['_storage'])


class _ArrayType(_StandIn):
  """The class `numpy.ndarray`, which arrays name as theirs."""

  def __new__(cls, *args: Any) -> '_ArrayType':
    raise pickle.UnpicklingError('numpy.ndarray, which must not be called.')


class _DType(_StandIn):
  """A `numpy.dtype` of numbers."""

  def __init__(self, name: str, align: bool = False, copy: bool = False):
    del align, copy
    if not isinstance(name, str) or not re.fullmatch(r'[fiub]\d+', name):
      raise pickle.UnpicklingError(f'an array of dtype {name!r}.')
    self.dtype = np.dtype(name)

  def __setstate__(self, state: Any) -> None:
    byte_order = state[1]
    if byte_order in ('<', '>'):
      self.dtype = self.dtype.newbyteorder(byte_order)


class _Array(_StandIn):
  """An array: made empty, filled by its state, as NumPy pickles arrays."""

  array: np.ndarray | None = None

  def __init__(self, *args: Any):
    del args  # A class, shape and dtype that do not matter.

  def __setstate__(self, state: Any) -> None:
    _, shape, dtype, is_fortran, data = state
    self.fill(data, dtype, shape, 'F' if is_fortran else 'C')

  def fill(self, data: Any, dtype: _DType, shape: Any, order: str) -> None:
    if not isinstance(data, bytes | bytearray):
      raise pickle.UnpicklingError('an array that is not made of bytes.')
    self.array = np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


class _FromBuffer(_StandIn):
  """The function that makes arrays of pickles of protocol 5."""

  def __new__(cls, data: Any, dtype: _DType, shape: Any, order: str) -> _Array:
    array = _Array()
    array.fill(data, dtype, shape, order)
    return array


class _Scalar(_StandIn):
  """The function that makes a NumPy scalar."""

  def __new__(cls, dtype: _DType, data: bytes) -> _Array:
    return _FromBuffer(data, dtype, (), 'C')


class _JaxArray(_StandIn):
  """The function that makes a JAX array of a pickled NumPy array."""

  def __new__(cls, function: Any, args: Any, state: Any, _: Any) -> _Array:
    if function is not _Array:
      raise pickle.UnpicklingError('a JAX array that is not made of bytes.')
    array = _Array(*args)
    array.__setstate__(state)
    return array


_STAND_INS = {
  ('collections', 'OrderedDict'): _Mapping,
  **{
    ('haiku._src.data_structures', name): _Mapping
    for name in ('FlatMapping', 'FlatMap', 'frozendict')
  },
  ('numpy', 'ndarray'): _ArrayType,
  ('numpy', 'dtype'): _DType,
  **{
    (f'numpy.{core}.{module}', name): stand_in
    # NumPy 2 renamed its core.
    for core in ('core', '_core')
    for module, name, stand_in in (
      ('multiarray', '_reconstruct', _Array),
      ('multiarray', 'scalar', _Scalar),
      ('numeric', '_frombuffer', _FromBuffer),
    )
  },
  # The name that JAX has now, and the one it had in 2022; before, its arrays
  # were pickled as those of NumPy.
  ('jax._src.array', '_reconstruct_array'): _JaxArray,
  ('jax._src.device_array', 'reconstruct_device_array'): _JaxArray,
}


class _Unpickler(pickle.Unpickler):
  """Knows the names of `_STAND_INS` and no other; imports none of them."""

  def find_class(self, module: str, name: str) -> type[_StandIn]:
    stand_in = _STAND_INS.get((module, name))
    if stand_in is None:
      raise pickle.UnpicklingError(
        f'a request for {module}.{name}; nothing was run.'
      )
    return stand_in
