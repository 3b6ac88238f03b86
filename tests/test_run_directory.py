"""A run directory says by itself what was run, where, and how it went."""

import json
import logging
import os
import re
import shlex
import subprocess
import sys

import jax
import pytest
import tiny_job
from absl import logging as absl_logging
from event_files import events
from matplotlib.image import imread

import perceiver_jax
from perceiver_jax.tasks.report import ClassReport
from perceiver_jax.training import environment, loop, recorder
from perceiver_jax.training.checkpoint import Checkpointer
from perceiver_jax.training.metrics import (
  METRICS_FILE,
  MetricWriter,
  read_metrics,
)
from perceiver_jax.training.run_log import RunLog

pytestmark = pytest.mark.usefixtures('fast_compilation')


@pytest.fixture(scope='module')
def workdir(digits_dir, tmp_path_factory):
  """The directory of a run that was started twice."""
  workdir = tmp_path_factory.mktemp('run')
  loop.train(tiny_job.tiny_config(digits_dir, num_steps=2), workdir)
  loop.train(tiny_job.tiny_config(digits_dir, num_steps=3), workdir)
  return workdir


def test_environment_has_an_entry_for_each_start(workdir):
  entries = json.loads((workdir / 'environment.json').read_text())
  assert [entry['resume_step'] for entry in entries] == [None, 2]
  for entry in entries:
    assert re.fullmatch(r'\d{4}-\d\d-\d\dT[\d:]{8}\+00:00', entry['started'])
    assert shlex.split(entry['command']) == sys.orig_argv
    assert entry['devices'] == {'cpu': jax.device_count()}
    assert entry['processes'] == 1
    versions = entry['versions']
    assert versions['perceiver_jax'] == perceiver_jax.__version__
    assert versions['jax'] == jax.__version__
    assert versions.keys() >= {'python', 'jaxlib', 'dm-haiku', 'optax'}
    assert 'XLA_FLAGS' in entry['settings']


def test_log_tells_the_story_of_both_starts(workdir):
  lines = (workdir / 'log.txt').read_text().splitlines()
  stamp = r'\d{4}-\d\d-\d\dT[\d:]{8}Z (INFO|WARNING) '
  texts = [re.sub(f'^{stamp}', '', line) for line in lines]
  assert all(re.match(stamp, line) or line[:2] == '  ' for line in lines)
  assert texts[0].startswith('Started anew on ')
  assert [text[:13] for text in texts if text.startswith('step 2')] == [
    'step 2, train', 'step 2, speed', 'step 2, test:',
  ]  # fmt: skip
  assert texts.count('Ended.') == 2 and texts[-1] == 'Ended.'
  second = texts[texts.index('Ended.') + 1 :]
  assert second[0].startswith('the run in ') and '2, now 3' in second[1]
  assert second[2].startswith('Goes on from step 2 on ')


def _pictures(workdir):
  """Returns the shapes of pictures for TensorBoard by name and step."""
  return {
    (value.tag, event.step): (value.image.height, value.image.width)
    for event in events(workdir)
    for value in event.summary.value
    if value.HasField('image')
  }


def test_last_evaluation_leaves_tables_and_pictures(workdir):
  files = {path.name for path in (workdir / 'evaluation').iterdir()}
  assert files == {'per_class.csv', 'classes.png', 'mistakes.png'}
  for (name, step), size in _pictures(workdir).items():
    assert step in (2, 3)  # The ends of both starts.
    if step == 3:
      path = workdir / 'evaluation' / f'{name.removeprefix("test/")}.png'
      assert imread(path).shape[:2] == size
  assert {('test/classes', 3), ('test/mistakes', 3)} <= set(_pictures(workdir))


def test_chosen_evaluations_leave_them_too_and_one_that_fails_ends_nothing(
  digits_dir, tmp_path, monkeypatch, caplog
):
  save_report = ClassReport.save
  failures = [RuntimeError('cannot draw')]

  def save(report, directory):
    if failures:
      raise failures.pop()
    return save_report(report, directory)

  def fill_disk(_):
    raise OSError('no space for curves')

  monkeypatch.setattr(ClassReport, 'save', save)
  monkeypatch.setattr(recorder, 'save_curves', fill_disk)
  config = tiny_job.tiny_config(
    digits_dir, evaluate_every_steps=1, report_every_steps=2, num_steps=5
  )
  with caplog.at_level(logging.WARNING, logger='absl'):
    assert loop.train(config, tmp_path)['step'] == 5
  assert 'no pictures: cannot draw' in caplog.text
  assert 'no curves: no space for curves' in caplog.text
  assert {step for _, step in _pictures(tmp_path)} == {4, 5}


@pytest.mark.parametrize(
  ('share', 'expected'), [(1e9, [1, 2, 3, 4]), (1e-9, [1, 4])]
)
def test_curves_are_drawn_after_evaluations_as_long_as_they_cost_little(
  digits_dir, tmp_path, monkeypatch, share, expected
):
  steps = []

  def save_curves(workdir):
    steps.append(read_metrics(workdir / METRICS_FILE)[-1]['step'])

  monkeypatch.setattr(recorder, 'save_curves', save_curves)
  monkeypatch.setattr(recorder, '_CURVES_SHARE', share)
  config = tiny_job.tiny_config(digits_dir, evaluate_every_steps=1, num_steps=4)
  loop.train(config, tmp_path)
  assert steps == expected


def test_no_line_waits_when_a_state_is_saved(digits_dir, tmp_path, monkeypatch):
  calls = []

  def note(kind, name):
    method = getattr(kind, name)

    def noted(*args, **kwargs):
      calls.append(name)
      return method(*args, **kwargs)

    monkeypatch.setattr(kind, name, noted)

  for kind, name in (
    (MetricWriter, 'write'), (MetricWriter, 'flush'), (Checkpointer, 'save'),
  ):  # fmt: skip
    note(kind, name)
  loop.train(tiny_job.tiny_config(digits_dir, num_steps=3), tmp_path)
  saves = [number for number, name in enumerate(calls) if name == 'save']
  assert saves and all(calls[number - 1] == 'flush' for number in saves)


def test_reports_between_evaluations_are_refused(digits_dir):
  config = tiny_job.tiny_config(digits_dir, report_every_steps=4)
  with pytest.raises(ValueError, match='a multiple of evaluate_every_steps 3'):
    config.validate()


def _text(workdir):
  return (workdir / 'log.txt').read_text()


def test_log_has_the_warnings_and_how_the_run_ended(tmp_path, caplog):
  with pytest.raises(KeyError), RunLog(tmp_path):
    absl_logging.warning('disk %s', 'full')
    logging.getLogger('another.library').error('lost')
    raise KeyError('why')
  absl_logging.warning('later')
  kinds = [line.split(' ', 1)[1] for line in _text(tmp_path).splitlines()]
  assert kinds == [
    'WARNING disk full', 'ERROR lost', "ERROR Ended by KeyError: 'why'",
  ]  # fmt: skip


def test_only_the_primary_process_logs(tmp_path):
  with RunLog(tmp_path / 'run', is_primary=False) as log:
    log.note('nothing')
  assert not (tmp_path / 'run').exists()


def test_a_log_that_cannot_be_written_ends_no_run(tmp_path, monkeypatch):
  (tmp_path / 'log.txt').symlink_to('/dev/full')
  with RunLog(tmp_path) as log:
    log.note('lost')


def test_damaged_environment_is_set_aside(tmp_path, caplog):
  path = tmp_path / 'environment.json'
  for damaged in ('[{', '{}'):
    path.write_text(damaged)
    environment.append_environment(tmp_path, 3)
    assert (tmp_path / 'environment.json.damaged').read_text() == damaged
    (entry,) = json.loads(path.read_text())
    assert entry['resume_step'] == 3


@pytest.fixture
def checkout(tmp_path, monkeypatch):
  """A package in a Git repository of its own; returns what runs Git there."""
  file = tmp_path / 'package' / '__init__.py'
  file.parent.mkdir()
  file.write_text('')
  monkeypatch.setattr(perceiver_jax, '__file__', str(file))
  names = {'GIT_AUTHOR_NAME': 'a', 'GIT_AUTHOR_EMAIL': 'a@b.c'}
  names |= {'GIT_COMMITTER_NAME': 'a', 'GIT_COMMITTER_EMAIL': 'a@b.c'}

  def git(*arguments):
    return subprocess.run(
      ['git', '-C', str(tmp_path), *arguments],
      env=os.environ | names,
      check=True,
      capture_output=True,
      text=True,
    ).stdout.strip()

  git('init', '-q')
  return git


def test_commit_and_changes_are_those_of_the_package(checkout, tmp_path):
  # Installed into the checkout of something else.
  assert environment.environment()['git'] is None
  checkout('add', '.')
  checkout('commit', '-qm', 'first')
  commit = checkout('rev-parse', 'HEAD')
  assert environment.environment()['git'] == {'commit': commit, 'changed': []}
  (tmp_path / 'package' / '__init__.py').write_text('1\n')
  assert environment.environment()['git'] == {
    'commit': commit,
    'changed': [' M package/__init__.py'],
  }


def test_without_git_there_is_no_commit(monkeypatch):
  monkeypatch.setenv('PATH', '')
  assert environment.environment()['git'] is None
