"""Pickles of weights: what is read, and that nothing in them is run."""

import collections
import copyreg
import functools
import importlib
import os
import pickle
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from haiku._src import data_structures

from perceiver_jax.weights import pickles
from perceiver_jax.weights.pickles import read_pickle, write_pickle

_TREE = {
  'module/~/linear': {
    'w': np.arange(6, dtype=np.float32).reshape(2, 3),
    'b': np.array([1.5, -2.0], np.float32),
  },
  'norm': {'counter': np.array(7, np.int32)},
}


def _read(tmp_path, data):
  path = tmp_path / 'weights.pickle'
  path.write_bytes(data)
  return read_pickle(path)


def _mapped(function):
  return {
    module: {name: function(array) for name, array in arrays.items()}
    for module, arrays in _TREE.items()
  }


def _assert_is_tree(params):
  assert type(params) is dict
  assert params.keys() == _TREE.keys()
  for module, arrays in _TREE.items():
    assert type(params[module]) is dict
    assert params[module].keys() == arrays.keys()
    for name, array in arrays.items():
      assert type(params[module][name]) is np.ndarray
      assert params[module][name].dtype == array.dtype
      np.testing.assert_array_equal(params[module][name], array)


@pytest.mark.parametrize('protocol', [3, 4, 5])
@pytest.mark.parametrize(
  'kind',
  [
    lambda array: array,
    np.asfortranarray,
    jnp.asarray,
    lambda array: array[()],
  ],
  ids=['numpy', 'fortran', 'jax', 'scalar'],
)
def test_arrays_are_read_as_they_were(tmp_path, kind, protocol):
  params, state = _read(tmp_path, pickle.dumps(_mapped(kind), protocol))
  _assert_is_tree(params)
  assert state == {}


def test_bytes_in_another_order_are_read_as_the_same_numbers(tmp_path):
  tree = {'a': {'b': np.arange(3, dtype='>f4')}}
  params, _ = _read(tmp_path, pickle.dumps(tree))
  np.testing.assert_array_equal(params['a']['b'], [0, 1, 2])


def _frozen(tree):
  frozen = data_structures.frozendict
  return frozen({module: frozen(arrays) for module, arrays in tree.items()})


@pytest.mark.parametrize(
  'kind',
  [data_structures.FlatMap, _frozen, collections.OrderedDict],
  ids=['FlatMapping', 'frozendict', 'OrderedDict'],
)
def test_mappings_of_every_age_of_haiku_are_read(tmp_path, kind):
  data = pickle.dumps(kind(_TREE))
  assert kind is collections.OrderedDict or b'haiku' in data
  _assert_is_tree(_read(tmp_path, data)[0])


@pytest.mark.parametrize(
  ('kind', 'new', 'old'),
  [
    (np.asarray, b'numpy._core.multiarray', b'numpy.core.multiarray'),
    (
      jnp.asarray,
      b'jax._src.array\n_reconstruct_array',
      b'jax._src.device_array\nreconstruct_device_array',
    ),
  ],
)
def test_arrays_under_the_names_of_2021_are_read(tmp_path, kind, new, old):
  data = pickle.dumps(_mapped(kind), 3)
  assert new in data
  _assert_is_tree(_read(tmp_path, data.replace(new, old))[0])


def test_params_and_state_are_told_apart_from_params_alone(tmp_path):
  trees = {'params': _TREE, 'state': {'norm': {'average': np.ones(2)}}}
  params, state = _read(tmp_path, pickle.dumps(trees))
  _assert_is_tree(params)
  np.testing.assert_array_equal(state['norm']['average'], np.ones(2))


@pytest.mark.parametrize('state', [{}, {'norm': {'average': np.ones(2)}}])
def test_written_pickle_is_read_and_is_plain(tmp_path, state):
  path = tmp_path / 'weights.pickle'
  write_pickle(path, _mapped(jnp.asarray), state)
  params, found = read_pickle(path)
  _assert_is_tree(params)
  assert found.keys() == state.keys()
  plain = pickle.loads(path.read_bytes())
  _assert_is_tree(plain['params'] if state else plain)


class _Call:
  """Pickles as a call."""

  def __init__(self, *call):
    self.call = call[0], call[1:]

  def __reduce__(self):
    return self.call


def _opcodes(module, name, *, end=b'.'):
  """Returns a pickle that only gets hold of a name."""
  return b'\x80\x03' + f'c{module}\n{name}\n'.encode() + end


def _dotted(module, name):
  """The same by STACK_GLOBAL, which looks for attributes of attributes."""
  parts = [b'\x8c' + bytes([len(p)]) + p.encode() for p in (module, name)]
  return b'\x80\x04' + b''.join(parts) + b'\x93.'


_TOUCH = "__import__('pathlib').Path('touched').touch()"


# A call of each, with arguments that would leave a trace.
_CALLS = {
  'system': _Call(os.system, 'touch touched'),
  'builtins.eval': _Call(eval, _TOUCH),
  'builtins.exec': _Call(exec, _TOUCH),
  'builtins.getattr': _Call(getattr, 'text', 'format'),
  'builtins.type': _Call(type, 'name', (), {}),
  '.open': _Call(open, 'touched', 'w'),
  'functools.partial': _Call(functools.partial, os.system, 'touch touched'),
  'importlib.import_module': _Call(importlib.import_module, 'antigravity'),
  'numpy.load': _Call(np.load, 'weights.pickle'),
  'numpy.save': _Call(np.save, 'touched', 1.0),
  'numpy.array': _Call(np.array, [1.0]),
}


def _assert_refused(tmp_path, monkeypatch, data, message):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match=message) as error:
    _read(tmp_path, data)
  assert str(tmp_path / 'weights.pickle') in str(error.value)
  assert not list(tmp_path.glob('touched*'))
  assert 'antigravity' not in sys.modules
  # And nothing of the reader has been changed.
  _assert_is_tree(_read(tmp_path, pickle.dumps(_TREE))[0])


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('name', _CALLS)
def test_call_among_good_parameters_is_refused_by_its_name(
  tmp_path, monkeypatch, name, protocol
):
  data = pickle.dumps(_TREE | {'bad': {'w': _CALLS[name]}}, protocol)
  if protocol < 3:  # Names of Python 2, and NumPy's arrays are made otherwise.
    message = 'a request for .*; nothing was run'
  else:
    message = f'a request for .*{name}; nothing was run'
  _assert_refused(tmp_path, monkeypatch, data, message)


def test_the_calls_are_dangerous(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  pickle.loads(pickle.dumps(_CALLS['system']))
  assert (tmp_path / 'touched').exists()


def _named(module, name):
  """Pushes a name, as protocol 3 does."""
  return f'c{module}\n{name}\n'.encode()


def _dotted(module, name):
  """The same as protocol 4 does, which looks for attributes of attributes."""
  parts = [b'\x8c' + bytes([len(p)]) + p.encode() for p in (module, name)]
  return b''.join(parts) + b'\x93'


_SYSTEM = b'X\r\x00\x00\x00touch touched'
_SLOTS = b'N}X\x06\x00\x00\x00updateK\x01s\x86'  # (None, {'update': 1})
_FLAT_MAPPING = ('haiku._src.data_structures', 'FlatMapping')
_RECONSTRUCT = ('numpy.core.multiarray', '_reconstruct')


@pytest.mark.parametrize(
  ('opcodes', 'message'),
  [
    (_named('os', 'system') + b'(' + _SYSTEM + b'tR', 'for os.system;'),
    (b'(' + _SYSTEM + b'ios\nsystem\n', 'for os.system;'),
    (b'(' + _named('posix', 'system') + _SYSTEM + b'o', 'for posix.system;'),
    (_named('os', 'popen') + _SYSTEM + b'\x85\x81', 'for os.popen;'),
    (_named('antigravity', 'webbrowser'), 'for antigravity.webbrowser;'),
    (_named('numpy', 'ndarray.tofile'), 'for numpy.ndarray.tofile;'),
    (_dotted('numpy', 'ndarray.tofile'), 'for numpy.ndarray.tofile;'),
    (_dotted('collections', 'OrderedDict.fromkeys'), 'OrderedDict.fromkeys;'),
    (
      _dotted('haiku._src.data_structures', 'jax.numpy.save'),
      'for haiku._src.data_structures.jax.numpy.save;',
    ),
    (
      _dotted('perceiver_jax.weights.pickles', 'os.system'),
      'for perceiver_jax.weights.pickles.os.system;',
    ),
    (_named('_codecs', 'encode'), 'for _codecs.encode;'),
    (_named('numpy', 'dtype') + b'X\x01\x00\x00\x00O\x85R', "dtype 'O'"),
    (
      _named('numpy', 'dtype') + b'X\x05\x00\x00\x00f4,f4\x85R',
      "dtype 'f4,f4'",
    ),
    (_named('numpy', 'ndarray') + b')R', 'numpy.ndarray, which must not'),
    (_named('numpy', 'ndarray') + b')\x81', 'numpy.ndarray, which must not'),
    # Attributes of what stands for a name cannot be set.
    (_named(*_FLAT_MAPPING) + _SLOTS + b'b', 'missing 1 required'),
    (_named(*_RECONSTRUCT) + _SLOTS + b'b', 'missing 1 required'),
    (_named('numpy', 'dtype') + _SLOTS + b'b', 'missing 1 required'),
    (_named('numpy.core.numeric', '_frombuffer') + _SLOTS + b'b', 'missing 1'),
    (_named('jax._src.array', '_reconstruct_array') + _SLOTS + b'b', 'missing'),
    (b'}' + _SLOTS + b'b', 'pickle of Haiku mappings and arrays only'),
    (b'Pname\n', 'persistent'),
    (b'\x97', 'pickle of Haiku mappings and arrays only'),
  ],
)
def test_opcodes_that_reach_for_more_are_refused(
  tmp_path, monkeypatch, opcodes, message
):
  _assert_refused(tmp_path, monkeypatch, b'\x80\x04' + opcodes + b'.', message)


def test_extension_code_is_refused_by_its_name(tmp_path, monkeypatch):
  copyreg.add_extension('os', 'system', 240)
  try:
    data = b'\x80\x02\x82\xf0' + _SYSTEM + b'\x85R.'
    _assert_refused(tmp_path, monkeypatch, data, 'for os.system;')
  finally:
    copyreg.remove_extension('os', 'system', 240)


@pytest.mark.parametrize(
  ('tree', 'message'),
  [
    ([1, 2], 'list in place of a mapping'),
    ({'a': np.ones(2)}, '_Array in place of a mapping'),
    ({'a': {'b': {'c': np.ones(2)}}}, '_Mapping|dict in place of an array'),
    ({'a': {'b': 'text'}}, 'str in place of an array'),
    ({'a': {'b': np.ndarray}}, 'type in place of an array'),
    ({'a': {3: np.ones(2)}}, 'int in place of a name'),
    ({1: {'b': np.ones(2)}}, 'int in place of a name'),
    ({'params': {}, 'state': None}, 'NoneType in place of a mapping'),
    (
      {'params': _TREE, 'state': {}, 'step': 3, 'rng': {}},
      "got 'rng', 'step' beside params and state",
    ),
    ({'a': {'b': np.array(['x'])}}, "dtype 'U1'"),
    ({'a': {'b': np.array([None])}}, "dtype 'O8'"),
    ({'a': {'b': np.zeros(2, 'f4,i4')}}, "dtype 'V8'"),
  ],
)
def test_pickle_of_anything_else_is_refused(
  tmp_path, monkeypatch, tree, message
):
  data = pickle.dumps(tree, 4)
  _assert_refused(tmp_path, monkeypatch, data, message)


@pytest.mark.parametrize('end', [0, 1, 20, -100, -1])
def test_truncated_pickle_is_refused_by_the_name_of_its_file(
  tmp_path, monkeypatch, end
):
  data = pickle.dumps(_TREE)[:end]
  message = 'must be a pickle of Haiku mappings and arrays only'
  _assert_refused(tmp_path, monkeypatch, data, message)


def test_error_without_a_text_is_named(tmp_path, monkeypatch):
  def fail(unpickler, module, name):
    raise MemoryError

  monkeypatch.setattr(pickles._Unpickler, 'find_class', fail)
  with pytest.raises(ValueError, match='arrays only, got: MemoryError'):
    _read(tmp_path, pickle.dumps(_TREE))


@pytest.mark.parametrize('protocol', [0, 1, 2])
def test_arrays_of_old_protocols_are_refused_by_the_call(
  tmp_path, monkeypatch, protocol
):
  data = pickle.dumps(_TREE, protocol)
  _assert_refused(tmp_path, monkeypatch, data, 'for _codecs.encode;')


def test_file_of_another_format_is_refused(tmp_path, monkeypatch):
  message = 'must be a pickle of Haiku mappings and arrays only'
  _assert_refused(tmp_path, monkeypatch, b'PK\x03\x04' + bytes(100), message)
