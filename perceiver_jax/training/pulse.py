"""That a long job goes on, and whether it has been told to stop.

A cluster that takes a machine back sends SIGTERM to the job some time before.
JAX brings the notice from one process to all, and says at which beat all stop.
"""

import contextlib
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Iterator

import jax
from absl import logging
from jax.experimental import multihost_utils

# In a time-out; a process that was itself stopped meanwhile takes no looks.
_LOOKS = 20
_END = b'\0'  # The number of no signal.


class Pulse:
  """Hears that a job must stop, and ends one that is stuck.

  A context manager. Every process of a job makes one, and calls `beat` as often
  as the others.

  Args:
    heeds_sigterm: whether SIGTERM to any process is a request to stop, which
      `beat` reports; more of them change nothing. Otherwise it ends the
      process, as ever. With many processes, `distributed.join` must have been
      told the same. A single process is ended by it, with a message, before
      the first beat: there is nothing to save, and the first update may take
      minutes to compile.
    exit_code: what it exits with then.
    stall_timeout_secs: the process is ended, with a message, when there is no
      beat for so long; None: it never is.
  """

  def __init__(
    self,
    *,
    heeds_sigterm: bool = False,
    exit_code: int = 0,
    stall_timeout_secs: float | None = None,
  ) -> None:
    self._heeds_sigterm = heeds_sigterm
    self._exit_code = exit_code
    self._timeout_secs = stall_timeout_secs
    self._num_beats = 0
    self._is_told = False
    self._is_over = threading.Event()
    self._guard: threading.Thread | None = None
    self._opened = contextlib.ExitStack()

  def __enter__(self) -> 'Pulse':
    if self._heeds_sigterm and not jax.distributed.is_initialized():
      self._opened.enter_context(self._listening())
    if self._timeout_secs is not None:
      self._guard = threading.Thread(
        target=self._watch, name='stall-guard', daemon=True
      )
      self._guard.start()
    return self

  def __exit__(self, *_: object) -> None:
    self._opened.close()
    self._is_over.set()
    if self._guard is not None:
      self._guard.join()

  def beat(self) -> bool:
    """Notes that the job goes on; returns whether it must stop here."""
    self._num_beats += 1
    if self._heeds_sigterm and jax.distributed.is_initialized():
      return multihost_utils.reached_preemption_sync_point(self._num_beats)
    return self._is_told

  @contextlib.contextmanager
  def _listening(self) -> Iterator[None]:
    """Hears SIGTERM within the context."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    listener = threading.Thread(
      target=self._listen, args=[reader], name='sigterm-listener', daemon=True
    )
    listener.start()
    handler_before = signal.signal(signal.SIGTERM, self._tell)
    writer_before = signal.set_wakeup_fd(writer)
    try:
      yield
    finally:
      signal.set_wakeup_fd(writer_before)
      signal.signal(signal.SIGTERM, handler_before)
      os.write(writer, _END)
      listener.join()
      os.close(writer)
      os.close(reader)

  def _tell(self, *_: object) -> None:
    self._is_told = True

  def _listen(self, reader: int) -> None:
    # A handler would not be called before the compiler is done.
    while (number := os.read(reader, 1)) != _END:
      if number[0] == signal.SIGTERM and not self._num_beats:
        logging.warning(
          'Told to stop before the first update: nothing is to be saved; the '
          'same command begins where this one did.'
        )
        os._exit(self._exit_code)

  def _watch(self) -> None:
    num_looks, num_beats = 0, self._num_beats
    while not self._is_over.wait(self._timeout_secs / _LOOKS):
      is_stuck = self._num_beats == num_beats
      num_looks = num_looks + 1 if is_stuck else 0
      num_beats = self._num_beats
      if num_looks == _LOOKS:
        self._end()

  def _end(self) -> None:
    print(
      f'No update and no evaluated batch has ended for {self._timeout_secs:g} '
      's: this process or another one of the job is stuck, or '
      '--stall_timeout_secs is too short. The last checkpoint stays; the same '
      'command goes on from it. This is what this process was doing:',
      file=sys.stderr,
      flush=True,
    )
    faulthandler.dump_traceback(all_threads=True)
    os._exit(1)
