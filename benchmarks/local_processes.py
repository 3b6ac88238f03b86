"""How the processes of one job on this machine meet, and their devices."""

import os
import socket


def joining_flags(num_processes: int) -> list[list[str]]:
  """Returns the flags of `train.py` for each process of a job, by index.

  A process that is alone needs none.
  """
  if num_processes == 1:
    return [[]]
  address = f'localhost:{free_port()}'
  return [
    [
      '--distributed',
      f'--coordinator_address={address}',
      f'--process_count={num_processes}',
      f'--process_index={index}',
    ]
    for index in range(num_processes)
  ]


def cpu_environment(num_devices: int) -> dict[str, str]:
  """Returns the variables that give a process so many virtual CPU devices."""
  xla_flags = os.environ.get('XLA_FLAGS', '')
  devices = f'--xla_force_host_platform_device_count={num_devices}'
  return {
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': f'{xla_flags} {devices}'.strip(),
  }


def free_port() -> int:
  """Returns a port of this machine that nothing listens at."""
  with socket.socket() as listener:
    listener.bind(('localhost', 0))
    return listener.getsockname()[1]
