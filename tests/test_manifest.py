"""Checksums see every change; a manifest sees what is done to itself."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from sklearn.utils import murmurhash3_32

from perceiver_jax.training.manifest import (
  DamagedCheckpointError,
  Manifest,
  checksums,
  read_manifest,
)

_RNG = np.random.default_rng(0)
_VALUES = _RNG.normal(size=(7, 5)).astype(np.float32)


def _checksum(array):
  return checksums({'a': array})['a']


def _hashed(word):
  # Of no bytes, MurmurHash3 is the last step of it applied to the seed.
  return murmurhash3_32(b'', seed=int(word), positive=True)


@pytest.mark.parametrize(
  ('array', 'words'),
  [
    (_VALUES, _VALUES.view(np.uint32)),
    (jnp.asarray(_VALUES), _VALUES.view(np.uint32)),
    (jnp.float32([1, -2]).astype(jnp.bfloat16), [0x3F80, 0xC000]),
    (np.array([True, False]), [1, 0]),
    (jnp.int32(-1), [0xFFFFFFFF]),
    (np.array([1.0, 1e300]), np.array([1.0, 1e300]).view(np.uint32)),
    (jax.random.key(3), [0, 3]),
    (jnp.zeros((0, 2)), []),
  ],
)
def test_checksum_sums_hashes_of_words_and_places(array, words):
  expected = sum(
    _hashed(int(word) ^ _hashed(place + 1))
    for place, word in enumerate(np.ravel(words))
  )
  assert _checksum(array) == expected % 2**32


def test_checksum_of_more_than_a_block_is_that_of_its_parts():
  array = _RNG.normal(size=100_003).astype(np.float32)
  head, tail = (np.zeros_like(array) for _ in range(2))
  head[:60_000], tail[60_000:] = array[:60_000], array[60_000:]
  zeros = np.zeros_like(array)
  assert (_checksum(head) + _checksum(tail)) % 2**32 == (
    _checksum(array) + _checksum(zeros)
  ) % 2**32


def test_every_flipped_bit_changes_the_checksum():
  seen = {_checksum(_VALUES)}
  for place in range(_VALUES.size):
    for bit in range(32):
      array = _VALUES.copy()
      array.view(np.uint32).flat[place] ^= np.uint32(1 << bit)
      seen.add(_checksum(array))
  assert len(seen) == 1 + 32 * _VALUES.size


def test_changes_that_cancel_in_a_sum_do_not_in_the_checksum():
  seen = {_checksum(_VALUES)}
  for i in range(_VALUES.size):
    for j in range(i):
      swapped, negated = _VALUES.copy(), _VALUES.copy()
      swapped.flat[[i, j]] = swapped.flat[[j, i]]
      negated.flat[[i, j]] *= -1
      seen |= {_checksum(swapped), _checksum(negated)}
  assert len(seen) == 1 + _VALUES.size * (_VALUES.size - 1)


def _written(tmp_path):
  manifest = Manifest.of(
    {'a': _VALUES}, {'seed': 1, 'size': (2, 3)}, {'accuracy': 0.25}
  )
  path = epath.Path(tmp_path) / 'manifest.json'
  path.write_text(json.dumps(manifest.sealed()))
  return path, manifest


def test_manifest_comes_back(tmp_path):
  path, manifest = _written(tmp_path)
  # JSON knows no tuples.
  config = {'seed': 1, 'size': [2, 3]}
  assert read_manifest(path) == manifest._replace(config=config)


def test_no_changed_byte_of_a_manifest_goes_unnoticed(tmp_path):
  path, _ = _written(tmp_path)
  expected, data = read_manifest(path), path.read_bytes()
  noticed = 0
  for place in range(len(data)):
    for bit in range(8):
      path.write_bytes(
        data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
      )
      try:
        assert read_manifest(path) == expected
      except DamagedCheckpointError:
        noticed += 1
  assert noticed > 7 * len(data)


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"seal": 0}', 'null'])
def test_what_is_no_manifest_is_damaged(tmp_path, text):
  path = epath.Path(tmp_path) / 'manifest.json'
  with pytest.raises(DamagedCheckpointError, match='is missing'):
    read_manifest(path)
  path.write_text(text)
  with pytest.raises(DamagedCheckpointError, match='cannot be understood'):
    read_manifest(path)
