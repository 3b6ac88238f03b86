"""The embedded stand-ins: their jobs run as docs/stand_ins.md says."""

import json
import os
import re
import shlex
import subprocess
import sys

import config_files
import numpy as np
import pytest

from perceiver_jax import predict
from perceiver_jax.training import loop
from perceiver_jax.training.metrics import read_metrics

_ROOT = config_files.DIRECTORY.parent
_TEXT = (_ROOT / 'docs' / 'stand_ins.md').read_text()
_COMMANDS = [
  line
  for block in re.findall(r'```bash\n(.*?)```', _TEXT, re.DOTALL)
  for line in block.splitlines()
]
_JOBS = [command for command in _COMMANDS if 'train.py' in command]
NAMES = ('solids', 'spoken_words', 'sights_and_sounds')


@pytest.mark.usefixtures('fast_compilation')
@pytest.mark.parametrize(
  'name',
  [
    'solids',
    pytest.param('spoken_words', marks=pytest.mark.slow),
    pytest.param('sights_and_sounds', marks=pytest.mark.slow),
  ],
)
def test_debug_variant_trains_and_is_evaluated(name, request, tmp_path):
  config = config_files.load(name).get_config('debug')
  config.data.data_dir = request.getfixturevalue(f'{name}_dir')
  trained = loop.train(config, tmp_path)
  lines = [
    line
    for line in read_metrics(tmp_path / 'metrics.jsonl')
    if line['split'] != 'speed'
  ]
  assert [(line['step'], line['split']) for line in lines] == [
    (1, 'train'),
    (2, 'train'),
    (2, 'test'),
  ]
  assert np.isfinite([line['loss'] for line in lines]).all()
  assert trained['num_examples'] == config.data.num_eval_examples
  for file in ('per_class.csv', 'classes.png', 'mistakes.png'):
    assert (tmp_path / 'evaluation' / file).exists()


def test_the_page_has_a_command_for_every_variant():
  # That each job can run is a test of every config, in test_command_line.
  pattern = (
    r'python train.py --config=configs/(\w+).py(?::(\w+))? --workdir=\S+'
  )
  matches = [re.fullmatch(pattern, command) for command in _JOBS]
  assert [(match[1], match[2] or '') for match in matches] == [
    (name, variant)
    for name in NAMES
    for variant in config_files.load(name).VARIANTS
    if variant != 'debug'
  ]


@pytest.mark.parametrize(
  ('name', 'rates', 'size'),
  [
    ('spoken_words', {'sample_rate_hz': 8000}, (0, 0, 0)),
    (
      'sights_and_sounds',
      {'sample_rate_hz': 8192, 'frame_rate_hz': 16},
      (20, 20, 1),
    ),
  ],
)
def test_recordings_can_be_listened_to(name, rates, size):
  module = config_files.load(name)
  for variant in module.VARIANTS:
    form = predict.clip_format(module.get_config(variant).model, **rates)
    assert form.size == (size if form.video else (0, 0, 0))
    assert form.num_frames * form.samples_per_frame == 8192


@pytest.mark.slow
def test_words_of_new_voices_are_told_apart(spoken_words_dir, tmp_path):
  (command,) = (c for c in _JOBS if c.endswith('/spoken_words'))
  (tmp_path / 'configs').symlink_to(config_files.DIRECTORY)
  (tmp_path / 'train.py').symlink_to(_ROOT / 'train.py')

  def run(*arguments):
    ended = subprocess.run(
      [sys.executable, *arguments],
      cwd=tmp_path,
      env=os.environ | {'TFDS_DATA_DIR': spoken_words_dir},
      check=True,
      timeout=600,
      capture_output=True,
      text=True,
    )
    return ended.stdout

  trained = json.loads(run(*_arguments(command)))
  assert trained['top_1_accuracy'] >= 0.97
  # The picture of the page.
  (code,) = re.findall(r'```python\n(.*?)```', _TEXT, re.DOTALL)
  run('-c', code)
  (command,) = set(_COMMANDS) - set(_JOBS)
  heard = run(*_arguments(command)).splitlines()
  # Three of the six are 'up', two 'yes'.
  assert [line.split()[1] for line in heard[1:4]] == ['up', 'yes', 'stop']
  assert heard[-1].startswith('words.png: 2 cross-attends')
  assert (tmp_path / 'words.png').stat().st_size > 10_000


def _arguments(command):
  program, *arguments = shlex.split(command)
  assert program == 'python'
  return arguments


def _accuracy(name, variant, num_steps, data_dir, workdir):
  """Returns what a job comes to that is shorter than it should be."""
  config = config_files.load(name).get_config(variant)
  config.data.data_dir = data_dir
  config.num_steps = config.evaluate_every_steps = num_steps
  config.checkpoint.every_steps = num_steps
  return loop.train(config, workdir)['top_1_accuracy']


@pytest.mark.slow
def test_solids_are_told_apart(solids_dir, tmp_path):
  # One in ten by chance.
  assert _accuracy('solids', '', 400, solids_dir, tmp_path) > 0.6


@pytest.mark.slow
def test_sight_and_sound_are_both_needed(sights_and_sounds_dir, tmp_path):
  accuracies = {
    variant: _accuracy(
      'sights_and_sounds',
      variant,
      300,
      sights_and_sounds_dir,
      tmp_path / (variant or 'both'),
    )
    for variant in ('', 'mel', 'video')
  }
  # The most that one alone can be expected to tell of 600 examples, four
  # standard deviations of it more, and twice what chance gives.
  assert 2 / 12 < accuracies['mel'] < 1 / 3 + 0.077
  assert 2 / 12 < accuracies['video'] < 1 / 4 + 0.071
  assert accuracies[''] > 0.6
