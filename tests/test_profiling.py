"""A profile of chosen updates is written; one that cannot be ends no run."""

import gzip
import json
import logging
import re

import jax
import pytest
import tiny_job

from perceiver_jax.training import loop
from perceiver_jax.training.metrics import read_metrics
from perceiver_jax.training.profiling import Profiler, parse_steps

pytestmark = pytest.mark.usefixtures('fast_compilation')


def _profiled(workdir) -> list[str]:
  """Returns the updates in each profile that Perfetto would open."""
  profiles = []
  for path in sorted(workdir.glob('profile/plugins/profile/*/perfetto*')):
    with gzip.open(path) as file:
      events = json.load(file)['traceEvents']
    profiles.append(
      sorted(
        int(event['args']['step_num'])
        for event in events
        if event.get('name') == 'train' and 'step_num' in event.get('args', {})
      )
    )
  return profiles


@pytest.fixture(scope='module')
def profiled(digits_dir, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('profiled')
  loop.train(tiny_job.tiny_config(digits_dir), workdir, range(3, 5))
  return workdir


def test_profile_has_the_chosen_updates_and_no_other(profiled):
  assert _profiled(profiled) == [[3, 4]]
  # What TensorBoard reads.
  (plane,) = profiled.glob('profile/plugins/profile/*/*.xplane.pb')
  space = jax.profiler.ProfileData.from_file(str(plane))
  names = {
    e.name for p in space.planes for line in p.lines for e in line.events
  }
  assert 'train' in names


def test_time_of_a_profile_is_no_part_of_the_speed(profiled):
  steps = [
    line['step']
    for line in read_metrics(profiled / 'metrics.jsonl')
    if line['split'] == 'speed'
  ]
  # The updates before and at the end of the profile begin the measuring anew.
  assert steps == [3, 5, 6]


@pytest.mark.parametrize(
  ('steps', 'said', 'profiles'),
  [
    (range(1, 3), 'of the updates 1 to 2, .* none is', []),
    (range(2, 4), 'of the updates 2 to 3, .* only those from 3 on', [[3]]),
  ],
)
def test_run_that_goes_on_profiles_what_is_left_and_says_so(
  steps, said, profiles, tmp_path, caplog
):
  with (
    caplog.at_level(logging.WARNING, logger='absl'),
    Profiler(tmp_path, steps, start=2, num_steps=4) as profiler,
  ):
    for step in (3, 4):
      with profiler.step(step):
        pass
  assert re.search(said, caplog.text)
  assert _profiled(tmp_path) == profiles


def test_steps_after_the_end_are_refused_before_anything_is_trained(
  digits_dir, tmp_path
):
  config = tiny_job.tiny_config(digits_dir)
  with pytest.raises(
    ValueError,
    match='profile_steps must end by the last update, 6, got 5:8.',
  ):
    loop.train(config, tmp_path, range(5, 8))
  assert not (tmp_path / 'metrics.jsonl').exists()


def test_steps_are_refused_in_every_process_but_profiled_in_one(tmp_path):
  with pytest.raises(ValueError, match='by the last update, 3, got 2:9'):
    Profiler(tmp_path, range(2, 9), start=0, num_steps=3, is_primary=False)
  profiler = Profiler(
    tmp_path, range(2, 3), start=0, num_steps=3, is_primary=False
  )
  assert not any(profiler.waits(step) for step in range(4))


@pytest.mark.parametrize('text', ['', '5', '0:3', '3:3', '5:4', '1:2:3', 'a:b'])
def test_malformed_steps_are_refused(text):
  with pytest.raises(ValueError, match=f"must be FIRST:END.* got '{text}'"):
    parse_steps(text)


def test_steps_are_those_before_the_end():
  assert parse_steps('100:110') == range(100, 110)


@pytest.mark.parametrize('failing', ['start_trace', 'stop_trace'])
def test_profile_that_fails_is_reported_and_ends_nothing(
  failing, tmp_path, monkeypatch, caplog
):
  def fail(*_, **__):
    raise RuntimeError('no space left')

  monkeypatch.setattr(jax.profiler, 'start_trace', lambda *_, **__: None)
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: None)
  monkeypatch.setattr(jax.profiler, failing, fail)
  steps = range(1, 3)
  with (
    Profiler(tmp_path, steps, start=0, num_steps=3) as profiler,
    caplog.at_level(logging.ERROR, logger='absl'),
  ):
    for step in (1, 2, 3):
      with profiler.step(step):
        pass
  assert 'no space left' in caplog.text


def test_profile_under_way_is_ended_with_the_run(tmp_path):
  with (
    pytest.raises(KeyError),
    Profiler(tmp_path, range(1, 9), start=0, num_steps=9) as profiler,
  ):
    with profiler.step(1):
      pass
    raise KeyError
  assert _profiled(tmp_path) == [[1]]
