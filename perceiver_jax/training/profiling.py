"""A profile of chosen updates, for TensorBoard and Perfetto."""

import contextlib
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator

import jax
from absl import logging
from etils import epath

from perceiver_jax.buckets import make_directory

PROFILE_DIR = 'profile'


def parse_steps(text: str) -> range:
  """Returns the updates that `FIRST:END` names; END is the first left out.

  Raises:
    ValueError: it names none.
  """
  match = re.fullmatch(r'(\d+):(\d+)', text)
  steps = range(*map(int, match.groups())) if match else range(0)
  if not steps or steps.start < 1:
    raise ValueError(
      'profile_steps must be FIRST:END, such as 100:110 for the updates 100 to '
      f'109, with 1 <= FIRST < END, got {text!r}.'
    )
  return steps


class Profiler:
  """Profiles some updates of a run into `WORKDIR/profile`.

  There, TensorBoard finds `plugins/profile/TIME/*.xplane.pb` (by its plugin
  `xprof`), and ui.perfetto.dev opens `perfetto_trace.json.gz` beside it. If a
  profile cannot be made or written, that is logged, and the run goes on.

  A context manager, which ends a profile that is under way.

  Args:
    workdir: the directory of the run.
    steps: which updates, from 1; None: none.
    start: updates that are already done.
    num_steps: those of the whole run.
    is_primary: whether to profile at all; only one process of many should.

  Raises:
    ValueError: the run ends before.
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    steps: range | None,
    *,
    start: int,
    num_steps: int,
    is_primary: bool = True,
  ) -> None:
    self._directory = epath.Path(workdir) / PROFILE_DIR
    self._traced: tempfile.TemporaryDirectory | None = None
    self.steps = range(0)
    if steps is None:
      return
    if steps[-1] > num_steps:
      raise ValueError(
        f'profile_steps must end by the last update, {num_steps}, got '
        f'{steps.start}:{steps.stop}.'
      )
    if not is_primary:
      return
    self.steps = range(max(steps.start, start + 1), steps.stop)
    if len(self.steps) < len(steps):
      logging.warning(
        'The run goes on from step %d: of the updates %d to %d, which were to '
        'be profiled, %s.',
        start,
        steps[0],
        steps[-1],
        f'only those from {start + 1} on are' if self.steps else 'none is',
      )

  def __enter__(self) -> 'Profiler':
    return self

  def __exit__(self, *_: object) -> None:
    self._stop()

  def waits(self, step: int) -> bool:
    """Returns whether an update must be done when `step` is left.

    So that a profile has all that belongs to it, and nothing else.
    """
    return bool(self.steps) and step in (self.steps[0] - 1, self.steps[-1])

  @contextlib.contextmanager
  def step(self, step: int) -> Iterator[None]:
    """Marks an update in the profile, which begins and ends with some."""
    if self.steps and step == self.steps[0]:
      self._start()
    with jax.profiler.StepTraceAnnotation('train', step_num=step):
      yield
    if self.steps and step == self.steps[-1]:
      self._stop()

  def _start(self) -> None:
    # Not in the workdir, which JAX cannot write to if it is a bucket.
    traced = tempfile.TemporaryDirectory()
    options = jax.profiler.ProfileOptions()
    # Python's calls would slow down what is measured.
    options.python_tracer_level = 0
    try:
      jax.profiler.start_trace(
        traced.name, create_perfetto_trace=True, profiler_options=options
      )
    except Exception as error:  # Such as another profile under way.
      traced.cleanup()
      logging.error('The profile cannot be started: %s', error)
    else:
      self._traced = traced

  def _stop(self) -> None:
    if self._traced is None:
      return
    traced, self._traced = self._traced, None
    with traced:
      try:
        jax.profiler.stop_trace()
        _copy(pathlib.Path(traced.name), self._directory)
      except Exception as error:
        logging.error('The profile cannot be written: %s', error)
      else:
        logging.info('The profile is in %s.', self._directory)


def _copy(source: pathlib.Path, target: epath.Path) -> None:
  """Copies the files below a directory to where they may be in a bucket."""
  for path in source.rglob('*'):
    if path.is_file():
      copy = target / path.relative_to(source)
      make_directory(copy.parent)
      copy.write_bytes(path.read_bytes())
