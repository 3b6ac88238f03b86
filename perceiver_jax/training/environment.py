"""What a run ran on: written beside its numbers, for who must explain them."""

import collections
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jax
from absl import logging
from etils import epath

import perceiver_jax
from perceiver_jax.buckets import replace_text

ENVIRONMENT_FILE = 'environment.json'
_DISTRIBUTIONS = (
  'jax',
  'jaxlib',
  'libtpu',
  'dm-haiku',
  'optax',
  'numpy',
  'jmp',
  'orbax-checkpoint',
  'grain',
  'tensorflow-datasets',
)
_SETTINGS = ('JAX_', 'XLA_', 'LIBTPU_')
_GIT_SECS = 10.0


def environment() -> dict[str, Any]:
  """Returns what could explain a difference between two runs.

  `started`, the time now in UTC; `command`; `host`; `processes`; `devices` by
  kind, over all processes; `versions` of Python and of what is installed;
  `git`, the `commit` of the package and the files `changed` since, None outside
  of a checkout; and `settings`, environment variables of JAX and its compilers.
  """
  now = datetime.datetime.now(datetime.UTC)
  return {
    'started': now.isoformat(timespec='seconds'),
    'command': shlex.join(sys.orig_argv),
    'host': platform.node(),
    'processes': jax.process_count(),
    'devices': collections.Counter(d.device_kind for d in jax.devices()),
    'versions': {
      'python': platform.python_version(),
      'perceiver_jax': perceiver_jax.__version__,
      **_versions(),
    },
    'git': _git_state(),
    'settings': {
      name: value
      for name, value in sorted(os.environ.items())
      if name.startswith(_SETTINGS)
    },
  }


def append_environment(
  workdir: str | os.PathLike[str], resume_step: int | None
) -> str:
  """Adds a start of the run to the list in `WORKDIR/environment.json`.

  A file that holds no such list is set aside.

  Args:
    workdir: the directory of the run.
    resume_step: where the run goes on from; None if it starts anew.

  Returns:
    A line that sums it up.
  """
  entry = {'resume_step': resume_step} | environment()
  path = epath.Path(workdir) / ENVIRONMENT_FILE
  entries = []
  if path.exists():
    try:
      entries = json.loads(path.read_text())
      if not isinstance(entries, list):
        raise ValueError(f'it must hold a list, got {type(entries).__name__}.')
    except ValueError as error:
      aside = path.with_name(f'{path.name}.damaged')
      path.replace(aside)
      logging.warning('%s is now %s: %s', path, aside.name, error)
      entries = []
  replace_text(path, json.dumps([*entries, entry], indent=2) + '\n')
  return _summary(entry)


def _summary(entry: Mapping[str, Any]) -> str:
  devices = ', '.join(
    f'{count} x {kind}' for kind, count in entry['devices'].items()
  )
  source = f'perceiver_jax {entry["versions"]["perceiver_jax"]}'
  if git := entry['git']:
    source += (
      f' of commit {git["commit"]}{" with changes" * bool(git["changed"])}'
    )
  step = entry['resume_step']
  return (
    f'{"Started anew" if step is None else f"Goes on from step {step}"} on '
    f'{entry["host"]}, {devices} in {entry["processes"]} processes, {source}.'
  )


def _versions() -> dict[str, str]:
  versions = {}
  for name in _DISTRIBUTIONS:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return versions


def _git_state() -> dict[str, Any] | None:
  """Returns the commit of the package, if it is in a checkout of its own."""
  # Installed, it may lie in an environment inside of another checkout.
  if _git('ls-files', '--error-unmatch', perceiver_jax.__file__) is None:
    return None
  commit = _git('rev-parse', 'HEAD')
  changes = _git('status', '--porcelain', '--untracked-files=no')
  changed = None if changes is None else changes.splitlines()
  return {'commit': commit, 'changed': changed}


def _git(*arguments: str) -> str | None:
  """Returns what Git says, None if it says nothing or fails."""
  directory = pathlib.Path(perceiver_jax.__file__).parent
  try:
    ended = subprocess.run(
      ['git', '--no-optional-locks', '-C', str(directory), *arguments],
      capture_output=True,
      text=True,
      check=True,
      timeout=_GIT_SECS,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return ended.stdout.rstrip()
