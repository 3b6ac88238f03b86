"""A text file of what was logged in a run, over all of its starts."""

import logging
import os
import time
from types import TracebackType

from etils import epath

from perceiver_jax.buckets import make_directory
from perceiver_jax.training.lasting_files import LineFile

LOG_FILE = 'log.txt'


class RunLog:
  """Adds to `WORKDIR/log.txt` what any library logs, and notes of the run.

  Lines begin with the time in UTC. What is logged is written if it would be
  shown, notes always; how the run ended comes last.

  A context manager. In a run of many processes only the first one writes: the
  others give `is_primary=False`, and each call does nothing.

  Args:
    workdir: the directory of the run; made if it does not exist.
    is_primary: whether to write at all.
  """

  def __init__(
    self, workdir: str | os.PathLike[str], *, is_primary: bool = True
  ) -> None:
    self._handler: _Handler | None = None
    if not is_primary:
      return
    workdir = epath.Path(workdir)
    make_directory(workdir)
    self._handler = _Handler(LineFile(workdir / LOG_FILE))
    root = logging.getLogger()
    self._stand_in = None
    if not root.handlers and logging.lastResort is not None:
      # Shows what no other handler does; now there is one.
      self._stand_in = logging.lastResort
      root.addHandler(self._stand_in)
    root.addHandler(self._handler)

  def __enter__(self) -> 'RunLog':
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    if self._handler is None:
      return
    if error is None:
      self.note('Ended.')
    else:
      self.note(f'Ended by {kind.__name__}: {error}', logging.ERROR)
    root = logging.getLogger()
    root.removeHandler(self._handler)
    if self._stand_in is not None:
      root.removeHandler(self._stand_in)
    self._handler.close()

  def note(self, text: str, level: int = logging.INFO) -> None:
    """Writes a line of its own."""
    if self._handler is not None:
      record = {'msg': text, 'levelno': level}
      record['levelname'] = logging.getLevelName(level)
      self._handler.handle(logging.makeLogRecord(record))

  def flush(self) -> None:
    """Writes the lines that have not been written yet, to a bucket say."""
    if self._handler is not None:
      self._handler.flush()


class _Handler(logging.Handler):
  """Writes records to a file that outlasts failures."""

  def __init__(self, file: LineFile) -> None:
    super().__init__()
    self._file = file
    formatter = logging.Formatter(
      '%(asctime)sZ %(levelname)s %(message)s', '%Y-%m-%dT%H:%M:%S'
    )
    formatter.converter = time.gmtime
    self.setFormatter(formatter)

  def emit(self, record: logging.LogRecord) -> None:
    try:
      self._file.add(self.format(record) + '\n')
    except Exception:  # Such as arguments that do not fit the message.
      self.handleError(record)

  def flush(self) -> None:
    with self.lock:
      self._file.flush()

  def close(self) -> None:
    self._file.close()
    super().close()
