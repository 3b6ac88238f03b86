"""Joining the processes of a job: the same command on every host.

On TPU pods, SLURM, GKE and Open MPI, JAX finds out by itself how many there are
and how they meet. Elsewhere flags say it.
"""

import contextlib
import math
import os
import socket
import sys
import traceback
from collections.abc import Iterator

import jax
from absl import flags

from perceiver_jax.training.pulse import Pulse

_PLACE = ('coordinator_address', 'process_count', 'process_index')
_TIMEOUT = 'stall_timeout_secs'
_DEFAULT_STALL_TIMEOUT_SECS = 1800.0
_HEARTBEAT = 'heartbeat_timeout_secs'
_DEFAULT_HEARTBEAT_TIMEOUT_SECS = 100
# Kubernetes may wait for six minutes before it starts a pod again.
_MEETING_TIMEOUT_SECS = 900
_SPELLED_PLACE = '--coordinator_address, --process_count and --process_index'


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of a job of many processes."""
  flags.DEFINE_bool(
    'distributed',
    False,
    'Whether other processes run this job as well, with the same command. '
    'How they meet is known on TPU pods, SLURM, GKE and Open MPI; elsewhere '
    f'{_SPELLED_PLACE} say it.',
    flag_values=flag_values,
  )
  flags.DEFINE_string(
    'coordinator_address',
    None,
    'HOST:PORT at which the others reach process 0, a port that is free there.',
    flag_values=flag_values,
  )
  flags.DEFINE_integer(
    'process_count',
    None,
    'How many processes run the job.',
    flag_values=flag_values,
  )
  flags.DEFINE_integer(
    'process_index',
    None,
    'Which of them this one is, from 0.',
    flag_values=flag_values,
  )
  flags.DEFINE_float(
    _TIMEOUT,
    None,
    'With --distributed: ends this process, with a message, when no update and '
    'no evaluated batch has ended for so long, as when another process is '
    f'stuck. {_DEFAULT_STALL_TIMEOUT_SECS:g} unless given.',
    flag_values=flag_values,
  )
  flags.DEFINE_integer(
    _HEARTBEAT,
    None,
    'With --distributed: a process of which the first one has not heard for so '
    'long counts as dead, which ends the others. It must be longer than a host '
    'or the network may pause. '
    f'{_DEFAULT_HEARTBEAT_TIMEOUT_SECS} unless given.',
    flag_values=flag_values,
  )


def check_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
  """Checks the flags before anything is started.

  Raises:
    ValueError: they contradict each other.
  """
  for name in (*_PLACE, _TIMEOUT, _HEARTBEAT):
    is_given = flag_values[name].value is not None
    if is_given and not flag_values['distributed'].value:
      raise ValueError(
        f'--{name} must come with --distributed, got it without.'
      )
  for name in (_TIMEOUT, _HEARTBEAT):
    timeout_secs = flag_values[name].value
    if timeout_secs is not None and not 0 < timeout_secs < math.inf:
      raise ValueError(
        f'--{name} must be positive and finite, got {timeout_secs:g}.'
      )
  place = {name: flag_values[name].value for name in _PLACE}
  given = [f'--{name}={v}' for name, v in place.items() if v is not None]
  if not given:
    return
  if len(given) < len(place):
    raise ValueError(
      f'{_SPELLED_PLACE} must be given together or not at all, got '
      f'{" ".join(given)}.'
    )
  address, count, index = place.values()
  host, _, port = address.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise ValueError(
      f'--coordinator_address must be HOST:PORT, got {address!r}.'
    )
  if count < 1:
    raise ValueError(f'--process_count must be at least 1, got {count}.')
  if not 0 <= index < count:
    raise ValueError(
      f'--process_index must be in 0..{count - 1}, for --process_count is '
      f'{count}, got {index}.'
    )


def join(
  *,
  heeds_sigterm: bool,
  exit_code: int = 0,
  flag_values: flags.FlagValues = flags.FLAGS,
) -> Pulse:
  """Waits for the other processes, if the flags say that there are some.

  Must be called before JAX starts a backend. JAX itself ends this process, with
  a message, if the others do not come within 15 minutes.

  Args:
    heeds_sigterm: whether SIGTERM asks the job to stop, from now on.
    exit_code: see `Pulse`.
    flag_values: where the flags are defined.

  Returns:
    The pulse of the job, to be entered.

  Raises:
    ValueError: the flags do not say how they meet, and JAX does not find out.
    OSError: the others could not reach this process, which has to lead.
  """
  if not flag_values['distributed'].value:
    return Pulse(heeds_sigterm=heeds_sigterm, exit_code=exit_code)
  jax.config.update('jax_enable_preemption_service', heeds_sigterm)
  address, count, index = (flag_values[name].value for name in _PLACE)
  if index == 0:
    _check_port(address)
  try:
    jax.distributed.initialize(
      address,
      count,
      index,
      initialization_timeout=_MEETING_TIMEOUT_SECS,
      heartbeat_timeout_seconds=flag_values[_HEARTBEAT].value
      or _DEFAULT_HEARTBEAT_TIMEOUT_SECS,
    )
  except ValueError as error:
    raise ValueError(
      f'{_SPELLED_PLACE} must come with --distributed where JAX does not find '
      f'out how processes meet, got none and from JAX: {error}'
    ) from error
  timeout_secs = flag_values[_TIMEOUT].value or _DEFAULT_STALL_TIMEOUT_SECS
  return Pulse(heeds_sigterm=heeds_sigterm, stall_timeout_secs=timeout_secs)


@contextlib.contextmanager
def errors_end_at_once() -> Iterator[None]:
  """Ends this process without further ado if an error leaves the context.

  Python's way to end waits for the other processes, which may themselves be
  waiting for this one. They notice that it is gone. Changes nothing in a job
  of one process.
  """
  try:
    yield
  except BaseException as error:
    if not jax.distributed.is_initialized():
      raise
    print(_spelled(error), file=sys.stderr, flush=True)
    os._exit(1)


def _spelled(error: BaseException) -> str:
  """Returns what Python would print, and what it may mean."""
  if isinstance(error, SystemExit):
    return str(error.code)
  text = ''.join(traceback.format_exception(error))
  if not isinstance(error, jax.errors.JaxRuntimeError):
    return text
  return (
    f'{text}Another process of the job may have ended or lost its connection; '
    'what it says itself tells why. The same command goes on from the last '
    'checkpoint.'
  )


def _check_port(address: str) -> None:
  """Checks that one can listen at a port; JAX crashes if it cannot."""
  port = int(address.rpartition(':')[2])
  with socket.socket() as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      listener.bind(('', port))
    except OSError as error:
      raise OSError(
        '--coordinator_address must have a port that is free on the machine of '
        f'process 0, got {address}: {error.strerror}.'
      ) from error
