"""A run that is told to stop saves, and goes on as if it had not been."""

import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_job

from perceiver_jax.training import loop
from perceiver_jax.training.checkpoint import Checkpointer
from perceiver_jax.training.job import abstract_state, make_job
from perceiver_jax.training.metrics import read_metrics
from perceiver_jax.training.pulse import Pulse

# Two batches of every evaluation.
_NUM_EVAL_BATCHES = 2


def _config(data_dir):
  config = tiny_job.resumable_config(data_dir)
  config.data.eval_batch_size = 200
  config.checkpoint.every_steps = config.evaluate_every_steps
  config.checkpoint.keep_best = 1
  return config


class _ToldAt(Pulse):
  """Is sent SIGTERM at a beat, and again later."""

  def __init__(self, beat):
    super().__init__(heeds_sigterm=True)
    self._beat = beat

  def beat(self):
    is_told = super().beat()
    self._beat -= 1
    if self._beat <= 0:
      os.kill(os.getpid(), signal.SIGTERM)
      is_told = super().beat()
    return is_told


def _lines(workdir):
  lines = read_metrics(workdir / 'metrics.jsonl')
  return [line for line in lines if line['split'] != 'speed']


def _interrupt(*_):
  raise InterruptedError


def _end(workdir, data_dir):
  """Returns the last state and the step of the best."""
  config = _config(data_dir)
  with config.checkpoint.make(
    workdir, config.to_json(), read_only=True
  ) as checkpointer:
    state = checkpointer.restore(abstract_state(make_job(config)))
    return state, checkpointer.best_step()


@pytest.mark.usefixtures('fast_compilation')
def test_stopped_run_goes_on_as_if_it_had_not_been(
  digits_dir, tmp_path, caplog, monkeypatch
):
  whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
  printed = loop.train(_config(digits_dir), whole)
  for beat, step in (
    (2, 2),  # After an update of no special step.
    (1, 3),  # After one that is followed by an evaluation.
    (1, 3),  # In that evaluation, which was not made.
    (None, 3),  # After it, before the checkpoint has it.
    (_NUM_EVAL_BATCHES + 3 + 1, 6),  # In the last evaluation.
  ):
    if beat is None:
      with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(Checkpointer, 'add_metrics', _interrupt)
        loop.train(_config(digits_dir), stopped)
      assert _lines(stopped)[-1]['split'] == 'test'
      continue
    caplog.clear()
    with _ToldAt(beat) as pulse:
      said = loop.train(_config(digits_dir), stopped, pulse=pulse)
    assert said == {'step': step}
    assert f'Told to stop after step {step} of 6' in caplog.text
    # Drawn after evaluations, and not on leaving.
    assert (stopped / 'curves.png').exists() == (step == 6)
  assert loop.train(_config(digits_dir), stopped) == printed
  assert _lines(stopped) == _lines(whole)
  (state, best), (expected, expected_best) = (
    _end(workdir, digits_dir) for workdir in (stopped, whole)
  )
  jax.tree.map(np.testing.assert_array_equal, state, expected)
  assert best == expected_best


def test_sigterm_is_heeded_only_while_asked_to():
  before = signal.getsignal(signal.SIGTERM)
  with Pulse() as pulse:
    assert signal.getsignal(signal.SIGTERM) is before
    assert not pulse.beat()
  with Pulse(heeds_sigterm=True) as pulse:
    assert not pulse.beat()
    for _ in range(2):
      signal.raise_signal(signal.SIGTERM)
      assert pulse.beat()
  assert signal.getsignal(signal.SIGTERM) is before


def test_process_without_beats_is_ended_with_a_message():
  program = """
import time
from perceiver_jax.training.pulse import Pulse

def wait_for_a_peer():
  time.sleep(100)

with Pulse(stall_timeout_secs=2.0) as pulse:
  for _ in range(50):
    time.sleep(0.1)
    pulse.beat()
  print('has beaten', flush=True)
  wait_for_a_peer()
"""
  ended = subprocess.run(
    [sys.executable, '-c', program],
    capture_output=True,
    text=True,
    timeout=90,
    check=False,
  )
  assert ended.returncode == 1, ended.stderr
  assert ended.stdout == 'has beaten\n'
  assert 'No update and no evaluated batch has ended for 2 s' in ended.stderr
  assert 'in wait_for_a_peer' in ended.stderr


@pytest.mark.parametrize('num_beats', [0, 1])
def test_sigterm_ends_a_process_at_once_only_if_nothing_was_done(num_beats):
  program = f"""
import hashlib
import jax
from perceiver_jax.training.pulse import Pulse

with Pulse(heeds_sigterm=True, exit_code=42) as pulse:
  for _ in range({num_beats}):
    pulse.beat()
  print('is busy', flush=True)
  # No handler is called meanwhile, as in the compiler.
  hashlib.pbkdf2_hmac('sha256', b'', b'', {10**7 if num_beats else 10**9})
  print(pulse.beat(), flush=True)
"""
  with subprocess.Popen(
    [sys.executable, '-c', program],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    try:
      assert process.stdout.readline() == 'is busy\n'
      process.terminate()
      said, errors = process.communicate(timeout=60)
    finally:
      process.kill()
  assert said == ('True\n' if num_beats else '')
  assert process.returncode == (0 if num_beats else 42), errors
  assert ('Told to stop before the first update' in errors) == (not num_beats)
