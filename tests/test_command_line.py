"""The command line: every field is a flag, every mistake is one line."""

import csv
import dataclasses
import enum
import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import config_files
import numpy as np
import pytest

from perceiver_jax.config import Config, from_json
from perceiver_jax.data.audioset.config import AudioSetData
from perceiver_jax.data.digits import DigitsData, ScatteredDigitsData
from perceiver_jax.data.imagenet import ImageNetData
from perceiver_jax.data.modelnet40 import ModelNet40Data
from perceiver_jax.data.sights_and_sounds import SightsAndSoundsData
from perceiver_jax.data.solids import SolidsData
from perceiver_jax.data.spoken_words import SpokenWordsData
from perceiver_jax.tasks.mixing import Mixing
from perceiver_jax.training import loop
from perceiver_jax.training.dry_run import dry_run
from perceiver_jax.training.initial_weights import InitialWeights
from perceiver_jax.training.loss_scaling import LossScaling
from perceiver_jax.training.metrics import read_metrics

# How ml_collections loads a file.
pytestmark = [
  pytest.mark.filterwarnings('ignore:the load_module'),
  pytest.mark.usefixtures('fast_compilation'),
]

ROOT = pathlib.Path(__file__).parents[1]
CONFIG_FILES = sorted(ROOT.glob('configs/*.py'))
DIGITS = ROOT / 'configs' / 'digits.py'


def _variants(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.VARIANTS


def _is_large(config):
  file, _, variant = config.partition(':')
  return 'digits' not in file and variant not in ('', 'debug')


CONFIGS = [
  f'{path.relative_to(ROOT)}:{variant}'.removesuffix(':')
  for path in CONFIG_FILES
  for variant in _variants(path)
]
# Fixtures that prepare the data.
_DATA_DIRS = {
  AudioSetData: 'audioset_dir',
  DigitsData: 'digits_dir',
  ScatteredDigitsData: 'digits_dir',
  ImageNetData: 'imagenet_dir',
  ModelNet40Data: 'modelnet40_dir',
  SightsAndSoundsData: 'sights_and_sounds_dir',
  SolidsData: 'solids_dir',
  SpokenWordsData: 'spoken_words_dir',
}
every_config = pytest.mark.parametrize(
  'config',
  [
    # The many variants of a large model differ by little.
    pytest.param(config, marks=[pytest.mark.slow] if _is_large(config) else [])
    for config in CONFIGS
  ],
)


def _error(*arguments) -> str:
  with pytest.raises(SystemExit) as error:
    config_files.from_flags(*arguments)
  line = error.value.code
  assert isinstance(line, str) and '\n' not in line
  return line


def _train(*arguments, num_devices=1):
  device_flag = f'--xla_force_host_platform_device_count={num_devices}'
  xla_flags = f'{os.environ.get("XLA_FLAGS", "")} {device_flag}'
  return subprocess.run(
    [sys.executable, 'train.py', *arguments],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': xla_flags},
    capture_output=True,
    text=True,
    timeout=170,
    check=False,
  )


def _part(holder: Config | dict, name: str):
  return holder[name] if isinstance(holder, dict) else getattr(holder, name)


def _annotation(config: Config, path: str):
  *parents, name = path.split('.')
  holder = functools.reduce(_part, parents, config)
  if isinstance(holder, dict):
    return type(holder[name])
  (kind,) = [f.type for f in dataclasses.fields(holder) if f.name == name]
  return kind


def _text(value) -> str:
  return value.name if isinstance(value, enum.Enum) else str(value)


def _other(value, annotation):
  """Returns another value of the type of a field."""
  if value is None:
    (annotation,) = set(annotation.__args__) - {type(None)}
    if getattr(annotation, '__origin__', None) is tuple:
      kinds = [kind for kind in annotation.__args__ if kind is not ...]
      return tuple(kind(3) for kind in kinds)
    return annotation(3)
  if isinstance(value, bool):
    return not value
  if isinstance(value, enum.Enum):
    return next(member for member in type(value) if member is not value)
  if isinstance(value, str):
    return f'other_{value}'
  if isinstance(value, tuple):
    others = tuple(_other(item, type(item)) for item in value)
    return others or (annotation.__args__[0](3),)
  return value + 1


def _is_optional(annotation) -> bool:
  return type(None) in getattr(annotation, '__args__', ())


@every_config
def test_every_leaf_can_be_set_to_its_own_value(config):
  expected = config_files.from_flags(f'--config={config}')
  values = [
    f'--config.{path}={_text(value)}' for path, value in expected.leaves()
  ]
  assert config_files.from_flags(f'--config={config}', *values) == expected


@every_config
def test_every_leaf_can_be_set_to_another_value(config):
  original = config_files.from_flags(f'--config={config}')
  for path, value in original.leaves():
    other = _other(value, _annotation(original, path))
    changed = config_files.from_flags(
      f'--config={config}', f'--config.{path}={_text(other)}'
    )
    leaves = dict(original.leaves())
    assert dict(changed.leaves()) == leaves | {path: other}, path


@every_config
def test_every_leaf_that_may_be_none_can_be_set_to_none(config):
  original = config_files.from_flags(f'--config={config}')
  for path, value in original.leaves():
    annotation = _annotation(original, path)
    if 'NONE' in getattr(type(value), '__members__', {}):
      continue  # It is a member's name, which may be in lower case.
    if not _is_optional(annotation):
      line = _error(f'--config={config}', f'--config.{path}=None')
      assert 'None' in line, path
    elif value is not None:
      changed = config_files.from_flags(
        f'--config={config}', f'--config.{path}=None'
      )
      assert dict(changed.leaves())[path] is None, path


@every_config
def test_config_validates_freezes_and_travels_through_json(config):
  loaded = config_files.from_flags(f'--config={config}')
  loaded.validate()
  assert from_json(loaded.freeze().to_json()) == loaded


@pytest.mark.parametrize('path', CONFIG_FILES, ids=lambda path: path.stem)
def test_config_has_a_default_and_a_debug_variant(path):
  assert {'', 'debug'} <= set(_variants(path))


@every_config
def test_config_runs_dry(config, request, tmp_path):
  loaded = config_files.from_flags(f'--config={config}')
  loaded.data.data_dir = request.getfixturevalue(_DATA_DIRS[type(loaded.data)])
  if loaded.initial_weights is not None:
    loaded.initial_weights.path = str(tmp_path)
  summary = dry_run(loaded)
  for line in ('parameters', 'forward FLOPs', 'saved activations', 'epochs)'):
    assert line in summary


@pytest.mark.parametrize(
  ('argument', 'parts'),
  [
    (
      'model.num_latentz=3',
      ['PerceiverConfig', 'num_latentz', "mean 'num_latents'"],
    ),
    ('modle.num_latents=3', ['TrainConfig', 'modle', "mean 'model'"]),
    ('model.num_latents=x', ['--config.model.num_latents=x', 'int', "'x'"]),
    ('model.num_latents=3.5', ['--config.model.num_latents', 'int', "'3.5'"]),
    ('model.num_latents=None', ['PerceiverConfig.num_latents', 'int', 'None']),
    ('model.unroll=maybe', ['model.unroll', 'boolean', "'maybe'"]),
    ('model.precision=FLOAT33', ['model.precision=FLOAT33', 'bfloat16']),
    ('task.image_mean=grey', ['image_mean[0]', 'float', "'grey'"]),
    ('loss_scaling=1', ['--config.loss_scaling=1', 'build or None', "'1'"]),
    ('loss_scaling.perod_steps=1', ['LossScaling', "mean 'period_steps'"]),
    ('num_epochs.end=1', ['num_epochs', 'float']),
  ],
)
def test_flag_that_does_not_fit_the_config_is_one_line(argument, parts):
  line = _error(f'--config={DIGITS}', f'--config.{argument}')
  assert all(part in line for part in parts), line


@pytest.mark.parametrize(
  ('path', 'arguments', 'expected'),
  [
    ('loss_scaling', ['=build'], LossScaling()),
    ('loss_scaling', ['.period_steps=9'], LossScaling(period_steps=9)),
    (
      'loss_scaling',
      ['=build', '.period_steps=9'],
      LossScaling(period_steps=9),
    ),
    ('loss_scaling', ['=build', '=None'], None),
    (
      'initial_weights',
      ['.path=runs/a', ".new_modules=('outputs',)"],
      InitialWeights(path='runs/a', new_modules=('outputs',)),
    ),
    ('task.mixing', ['.mixup_alpha=0.5'], Mixing(mixup_alpha=0.5)),
  ],
)
def test_part_that_a_job_may_lack_is_made_by_its_flags(
  path, arguments, expected
):
  original = config_files.from_flags(f'--config={DIGITS}').to_dict()
  changed = config_files.from_flags(
    f'--config={DIGITS}', *(f'--config.{path}{text}' for text in arguments)
  )
  *parents, name = path.split('.')
  assert getattr(functools.reduce(_part, parents, changed), name) == expected
  setattr(functools.reduce(_part, parents, changed), name, None)
  assert changed.to_dict() == original


def test_part_cannot_be_left_out_nor_lack_what_it_needs():
  line = _error(f'--config={DIGITS}', '--config.checkpoint=None')
  assert 'TrainConfig.checkpoint must be CheckpointConfig, got None' in line
  config = config_files.from_flags(
    f'--config={DIGITS}', '--config.initial_weights=build'
  )
  with pytest.raises(ValueError, match=r'initial_weights\.path must be'):
    config.validate()


def test_config_file_must_exist():
  assert "No such file or directory: 'nope.py'" in _error('--config=nope.py')
  line = _error('--config=nope.py', '--config.seed=1')
  assert "No such file or directory: 'nope.py'" in line
  assert '--config must have a value' in _error()


def test_variant_must_be_one_of_the_file():
  line = _error(f'--config={DIGITS}:nope')
  assert 'digits.py, line' in line
  assert "must be one of ('', 'io'" in line and "got 'nope'" in line


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('seed = 3\n', 'must define get_config(), got {path} without it'),
    ('get_config = lambda: 3\n', 'must return a TrainConfig, got int'),
    ('\nimport nope\n', '{path}, line 2: ModuleNotFoundError: No module named'),
    (
      'from perceiver_jax.model import PerceiverConfig\n'
      'def get_config():\n'
      '  return PerceiverConfig(num_latentz=3)\n',
      "{path}, line 3: AttributeError: PerceiverConfig has no field 'num_lat",
    ),
  ],
)
def test_mistake_in_a_config_file_is_one_line_with_its_place(
  tmp_path, text, message
):
  path = tmp_path / 'mistaken.py'
  path.write_text(text)
  assert message.format(path=path) in _error(f'--config={path}')


def test_debug_job_trains_evaluates_and_leaves_everything(tmp_path, digits_dir):
  job = [
    '--config=configs/digits.py:debug',
    f'--config.data.data_dir={digits_dir}',
    '--config.model.num_latents=4',
    '--config.model.latent_channels=8',
    '--config.data.num_workers=1',
    f'--workdir={tmp_path}/run',
  ]
  trained = _train(*job)
  assert trained.returncode == 0, trained.stderr
  evaluated = _train(*job, '--mode=eval')
  assert evaluated.returncode == 0, evaluated.stderr
  elsewhere = _train(
    *job[:-1],
    '--mode=eval',
    f'--checkpoint={tmp_path}/run',
    f'--workdir={tmp_path}/elsewhere',
  )
  assert elsewhere.returncode == 0, elsewhere.stderr
  assert elsewhere.stdout == evaluated.stdout

  lines = read_metrics(tmp_path / 'run' / 'metrics.jsonl')
  assert [(line['step'], line['split']) for line in lines] == [
    (1, 'train'), (2, 'train'), (2, 'speed'), (2, 'test'),
    (3, 'train'), (3, 'speed'), (4, 'train'), (4, 'speed'), (4, 'test'),
  ]  # fmt: skip
  last = {k: v for k, v in lines[-1].items() if k != 'split'}
  assert json.loads(trained.stdout) == last
  assert json.loads(evaluated.stdout) == last
  report = tmp_path / 'run' / 'evaluation'
  with (report / 'per_class.csv').open() as file:
    rows = list(csv.DictReader(file))
  counts = [int(row['examples']) for row in rows]
  assert len(counts) == 10 and sum(counts) == 355
  right = sum(float(row['top_1']) * int(row['examples']) for row in rows)
  np.testing.assert_allclose(right / 355, last['top_1_accuracy'], atol=1e-4)
  assert (report / 'mistakes.png').read_bytes().startswith(b'\x89PNG')
  copy = tmp_path / 'elsewhere' / 'evaluation'
  assert {path.name for path in copy.iterdir()} == {
    'per_class.csv',
    'classes.png',
    'mistakes.png',
  }
  assert [path.name for path in copy.parent.iterdir()] == ['evaluation']
  config = from_json((tmp_path / 'run' / 'config.json').read_text())
  assert config.model.num_latents == 4
  png = (tmp_path / 'run' / 'curves.png').read_bytes()
  assert png.startswith(b'\x89PNG')
  steps = {path.name for path in (tmp_path / 'run' / 'checkpoints').iterdir()}
  assert {'2', '4'} <= steps


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config.modell.num_latents=3'], 'modell'),
    (['--mode=train'], 'ValueError: --workdir must be given with --mode=train'),
    (
      ['--workdir={tmp_path}/run', '--config.data.batch_size=60'],
      'ValueError: batch_size must be divisible by the 8 devices, got 60.\n',
    ),
    (['--workdir=/dev/null/run'], 'got /dev/null/run: Not a directory.\n'),
  ],
)
def test_mistake_ends_the_program_with_one_line(arguments, message, tmp_path):
  arguments = [argument.format(tmp_path=tmp_path) for argument in arguments]
  ended = _train(f'--config={DIGITS}', *arguments, num_devices=8)
  assert ended.returncode == 1
  assert ended.stdout == ''
  assert message in ended.stderr
  assert ended.stderr.count('\n') == 1, ended.stderr
  assert not list(tmp_path.glob('run/*'))


def test_evaluation_needs_a_checkpoint(tmp_path, digits_dir):
  config = config_files.from_flags(
    f'--config={DIGITS}', f'--config.data.data_dir={digits_dir}'
  )
  for workdir in (tmp_path, tmp_path / 'nope'):
    with pytest.raises(ValueError, match='must be a workdir with a checkpoint'):
      loop.evaluate(config.copy(), workdir)
  assert not (tmp_path / 'nope').exists()
