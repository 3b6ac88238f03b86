"""What a checkpoint says of itself, so that damage to it does not go unseen.

Orbax restores some flipped bytes as other numbers without a word. So beside the
state lies a manifest: the config, the metrics, and name, dtype, shape and
checksum of every array, sealed by a checksum over all of these.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import google_crc32c
import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from perceiver_jax.buckets import os_errors
from perceiver_jax.training.compatibility import array_paths, spelled_arrays

# Elements hashed at a time: what comes of them stays in a core's cache.
_BLOCK = 1 << 15


class DamagedCheckpointError(ValueError):
  """A checkpoint does not hold what was saved."""


class Manifest(NamedTuple):
  """What is known of a checkpoint beside its state.

  Attributes:
    config: the config of the run.
    metrics: by name, of an evaluation of the state; None without one.
    arrays: dtype and shape of each array of the state, by path.
    checksums: see `checksums`, by path.
  """

  config: Any
  metrics: dict[str, float] | None
  arrays: dict[str, str]
  checksums: dict[str, int]

  @classmethod
  def of(
    cls, state: Any, config: Any, metrics: dict[str, float] | None
  ) -> 'Manifest':
    """Describes a state; every process of a run must call it."""
    return cls(config, metrics, spelled_arrays(state), checksums(state))

  def sealed(self) -> dict[str, Any]:
    """Returns what `read_manifest` accepts once it is written as JSON."""
    fields = self._asdict()
    return fields | {'seal': _seal(fields)}

  def check_values(self, actual: dict[str, int]) -> None:
    """Compares the checksums of a restored state with those of the saved one.

    Raises:
      DamagedCheckpointError: they differ; the message names the arrays.
    """
    changed = [
      path
      for path in self.checksums | actual
      if self.checksums.get(path) != actual.get(path)
    ]
    if changed:
      raise DamagedCheckpointError(
        f'{len(changed)} of {len(self.checksums)} arrays have other values '
        f'than when they were saved: {", ".join(changed[:3])}'
        f'{", ..." if len(changed) > 3 else ""}'
      )


@os_errors()
def read_manifest(path: epath.Path) -> Manifest:
  """Reads the file of a manifest.

  Raises:
    DamagedCheckpointError: it is missing, or not as it was written.
    OSError: it cannot be read.
  """
  try:
    saved = json.loads(path.read_bytes())
    seal = saved.pop('seal')
    manifest = Manifest(**saved)
  except FileNotFoundError as error:
    raise DamagedCheckpointError(f'{path} is missing') from error
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise DamagedCheckpointError(f'{path} cannot be understood') from error
  if seal != _seal(saved):
    raise DamagedCheckpointError(f'{path} was changed after it was written')
  return manifest


def checksums(tree: Any) -> dict[str, int]:
  """Returns a number for each array, which changes if the array does.

  Every element is hashed with its position in the array, and the hashes are
  summed modulo 2**32. So the number does not depend on how an array is divided
  among devices and processes. Another value of one element always changes it;
  of changes of more, one in 2**32 does not.

  Args:
    tree: arrays of JAX, of which each process adds the elements that it holds,
      so that all processes must call this; or of NumPy, each whole.
  """
  paths = array_paths(tree)
  for leaf in paths.values():
    if isinstance(leaf, jax.Array):
      leaf.copy_to_host_async()
  with ThreadPoolExecutor() as executor:
    sums = np.array(list(executor.map(_local_sum, paths.values())), np.uint32)
  is_shared = any(isinstance(leaf, jax.Array) for leaf in paths.values())
  if is_shared and jax.process_count() > 1:
    sums = np.sum(multihost_utils.process_allgather(sums), 0, np.uint32)
  return dict(zip(paths, sums.tolist(), strict=True))


def _local_sum(array: Any) -> int:
  """Returns the sum of the hashes of what this process holds of an array."""
  total = 0
  for part, index in _parts(array):
    positions = np.arange(array.size, dtype=np.uint32).reshape(array.shape)
    total += _hash_sum(part.reshape(-1), positions[index].reshape(-1))
  return total % 2**32


def _parts(array: Any) -> Iterator[tuple[np.ndarray, Any]]:
  """Yields each element of an array once among all processes, with places."""
  if isinstance(array, np.ndarray):
    yield array, ...
    return
  # What is not shared by the processes, each has.
  if array.is_fully_addressable and jax.process_index():
    return
  for shard in array.addressable_shards:
    if shard.replica_id == 0:
      yield np.asarray(shard.data), shard.index


def _hash_sum(elements: np.ndarray, positions: np.ndarray) -> int:
  """Returns the sum of the hashes of flat elements and their positions."""
  words = elements.view(f'u{min(elements.itemsize, 4)}')
  if (count := len(words) // max(1, len(elements))) > 1:
    positions = positions[:, None] * count + np.arange(count, dtype=np.uint32)
    positions = positions.reshape(-1)
  total = 0
  for start in range(0, len(words), _BLOCK):
    block = slice(start, start + _BLOCK)
    places = positions[block] + np.uint32(1)  # A copy, to mix in place.
    hashes = _mix(_mix(places) ^ words[block])
    total += int(np.sum(hashes, dtype=np.uint64))
  return total


def _mix(words: np.ndarray) -> np.ndarray:
  """Makes every bit of each word, of 32 bits, depend on all bits of it.

  In place; different words stay different. Source: the end of MurmurHash3.
  """
  words ^= words >> 16
  words *= np.uint32(0x85EBCA6B)
  words ^= words >> 13
  words *= np.uint32(0xC2B2AE35)
  words ^= words >> 16
  return words


def _seal(fields: dict[str, Any]) -> int:
  # As it is after a reading, which knows no tuples.
  text = json.dumps(json.loads(json.dumps(fields)), sort_keys=True)
  return google_crc32c.value(text.encode())
