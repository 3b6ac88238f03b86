"""Random access to TFRecord files, the format most prepared data is in.

A TFRecord file has no index: it is a sequence of records, each a little-endian
header (length: uint64, checksum of the length: uint32), the data, and a
checksum of the data (uint32). A file is indexed when it is first read from, by
hopping from header to header (about 2 microseconds a record on a local disk).

Source: tensorflow/core/lib/io/record_writer.h for the layout, and
tensorflow/core/lib/hash/crc32c.h for the masked checksum.
"""

import os
import struct
from collections.abc import Sequence

import google_crc32c
import numpy as np

_HEADER = struct.Struct('<QI')
_CHECKSUM = struct.Struct('<I')


class TFRecordFile:
  """The records of one TFRecord file as bytes, by position.

  Args:
    path: a file on a mounted file system; it is opened for each read, so
      that an instance may be pickled, forked and shared between threads.
    num_records: how many records the file must hold.
  """

  def __init__(self, path: str, num_records: int):
    if '://' in path:
      raise ValueError(
        'TFRecord files must be on a mounted file system to be read at random, '
        f'got {path}; mount it, or prepare the data set as array_record.'
      )
    self._path = path
    self._num_records = num_records
    self._offsets: Sequence[int] | None = None

  def __len__(self) -> int:
    return self._num_records

  def __getitem__(self, position: int) -> bytes:
    """Returns the data of a record after verifying its checksum.

    Raises:
      OSError: the file cannot be read.
      ValueError: the file is truncated or corrupt.
    """
    file = os.open(self._path, os.O_RDONLY)
    try:
      if self._offsets is None:
        self._offsets = _record_offsets(file, self._num_records)
      return _read_data(file, int(self._offsets[position]))
    finally:
      os.close(file)


def _record_offsets(file: int, num_records: int) -> np.ndarray:
  """Returns where each record begins, and checks that they fill the file."""
  offsets = np.empty([num_records], np.int64)
  size = os.fstat(file).st_size
  offset = 0
  for position in range(num_records):
    offsets[position] = offset
    try:
      length = _read_length(file, offset)
    except ValueError as error:
      raise ValueError(f'record {position}: {error}') from error
    offset += _HEADER.size + length + _CHECKSUM.size
    if offset > size:
      raise ValueError(
        f'record {position}: it must end within the file of {size} bytes, got '
        f'an end at byte {offset} (a truncated file).'
      )
  if offset != size:
    raise ValueError(
      f'the file must hold {num_records} records in {offset} bytes, got {size} '
      'bytes.'
    )
  return offsets


def _read_length(file: int, offset: int) -> int:
  header = os.pread(file, _HEADER.size, offset)
  if len(header) < _HEADER.size:
    raise ValueError(
      f'its header must have {_HEADER.size} bytes, got {len(header)} (a '
      'truncated file).'
    )
  length, checksum = _HEADER.unpack(header)
  _verify(header[:8], checksum, 'length')
  return length


def _read_data(file: int, offset: int) -> bytes:
  length = _read_length(file, offset)
  record = os.pread(file, length + _CHECKSUM.size, offset + _HEADER.size)
  if len(record) < length + _CHECKSUM.size:
    raise ValueError(
      f'it must have {length + _CHECKSUM.size} bytes, got {len(record)} (a '
      'truncated file).'
    )
  data = record[:length]
  _verify(data, *_CHECKSUM.unpack(record[length:]), 'data')
  return data


def _verify(data: bytes, checksum: int, what: str) -> None:
  crc = google_crc32c.value(data)
  expected = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
  if checksum != expected:
    raise ValueError(
      f'the checksum of its {what} must be {expected:#010x}, got '
      f'{checksum:#010x} (a corrupt file).'
    )
