"""What TensorBoard would read of a run."""

import struct
from collections.abc import Iterator

from tensorboardX.proto import event_pb2


def events(workdir) -> Iterator[event_pb2.Event]:
  """Yields the events of all TensorBoard files, in the order of writing."""
  for path in sorted(workdir.glob('events.*')):
    data = path.read_bytes()
    while data:
      (length,) = struct.unpack('<Q', data[:8])
      yield event_pb2.Event.FromString(data[12 : 12 + length])
      data = data[16 + length :]
