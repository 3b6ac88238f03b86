"""Parts of AudioSet that several machines have prepared, merged."""

import json

import pytest
import tensorflow_datasets as tfds
from audioset_tones import IDS, assert_same, read_examples

from perceiver_jax.data.audioset.__main__ import main
from perceiver_jax.data.audioset.builder import Audioset, Preparation
from perceiver_jax.data.audioset.plan import Plan
from perceiver_jax.data.audioset.prepare import merge, prepare


def test_parts_of_several_machines_are_merged(
  tones_manual_dir, tones_dir, tmp_path
):
  parts = [tmp_path / 'one', tmp_path / 'two']
  for number, part in enumerate(parts):
    prepare(tones_manual_dir, part, Preparation(part=(number + 1, 2)))
  merge(parts, tmp_path)
  by_id = {e['video_id']: e for e in read_examples(tones_dir)}
  expected = [by_id[i.encode()] for i in IDS[::2] + IDS[1::2]]
  assert_same(read_examples(tmp_path), expected)
  assert Plan.load(tmp_path / 'audioset' / '1.0.0') == Plan.load(
    tones_dir / 'audioset' / '1.0.0'
  )
  # TFDS itself reads them as one, without a merge.
  together = tfds.builder_from_directories(
    [str(part / 'audioset' / '1.0.0') for part in parts]
  )
  assert_same(list(together.as_data_source('eval')), expected)
  report = json.loads(
    (tmp_path / 'audioset' / '1.0.0' / 'report.json').read_text()
  )
  assert report['eval']['prepared'] == report['eval']['audio_only'] == 7
  unusual = (tmp_path / 'audioset' / '1.0.0' / 'unusual.csv').read_text()
  assert [line.split(',')[1] for line in unusual.splitlines()] == [
    'video_id',
    *IDS[::2],
    *IDS[1::2],
  ]


def test_parts_that_do_not_fit_are_refused(tones_dir, tmp_path):
  with pytest.raises(ValueError, match='none must hold prepared AudioSet'):
    merge([tones_dir, tmp_path / 'none'], tmp_path)
  with pytest.raises(FileExistsError, match='1.0.0 must not exist yet'):
    merge([tones_dir], tones_dir)


def test_part_prepared_twice_is_refused(tones_manual_dir, tmp_path):
  parts = [tmp_path / 'one', tmp_path / 'again']
  for part in parts:
    prepare(tones_manual_dir, part, Preparation(part=(1, 2)))
  with pytest.raises(
    SystemExit,
    match=r'parts of eval_segments.csv must be 1/2 to 2/2, each once, got 1/2 '
    f'in {parts[0]}, 1/2 in {parts[1]}.$',
  ):
    main(['merge', *map(str, parts), f'--data_dir={tmp_path}'])
  assert not (tmp_path / 'audioset').exists()


_TRAIN, _EVAL = ({split: split} for split in ('balanced_train', 'eval'))
_BOTH = _TRAIN | _EVAL


@pytest.mark.parametrize(
  ('plans', 'message'),
  [
    ([(_EVAL, (1, 1)), (_EVAL, (1, 1))], '1/1, each once, got 1/1 in 0, 1/1'),
    ([(_EVAL, (2, 3)), (_EVAL, (1, 3))], '1/3 to 3/3, each once, got 2/3 in 0'),
    ([(_EVAL, (1, 2)), (_EVAL, (2, 3))], '1/2 to 2/2, each once, got 1/2 in 0'),
    ([(_BOTH, (1, 2)), (_EVAL, (2, 2))], 'of balanced_train_segments.csv must'),
    (
      [(_BOTH, (1, 2)), (_BOTH | {'eval': 'x'}, (2, 2))],
      '1 must be of the eval_segments.csv of 0, got another',
    ),
    ([(_EVAL, (1, 1), 'x'), (_TRAIN, (1, 1))], 'indices.csv of 0, got another'),
  ],
)
def test_plans_that_are_not_all_parts_of_the_same_are_refused(plans, message):
  with pytest.raises(ValueError, match=message):
    _join(*plans)


def test_plans_are_joined_split_by_split():
  whole = _join((_BOTH, (3, 3)), (_BOTH, (1, 3)), (_BOTH, (2, 3)))
  assert whole == Plan('classes', _BOTH, (1, 1))
  assert _join((_TRAIN, (1, 1)), (_EVAL, (1, 1))) == whole


def _join(*plans):
  return Plan.joined(
    {
      str(name): Plan(*classes or ('classes',), lists, part)
      for name, (lists, part, *classes) in enumerate(plans)
    }
  )


def test_part_without_a_plan_is_refused(tones_manual_dir, tmp_path):
  prepare(tones_manual_dir, tmp_path)
  ready = tmp_path / 'audioset' / '1.0.0'
  assert Plan.load(ready).part == (1, 1)
  (ready / 'plan.json').unlink()
  with pytest.raises(ValueError, match=f'{ready}/plan.json must say which'):
    merge([tmp_path], tmp_path / 'merged')


def test_part_in_another_format_is_refused(
  tones_manual_dir, tones_dir, tmp_path
):
  Audioset(data_dir=tmp_path, file_format='tfrecord').download_and_prepare(
    download_config=tfds.download.DownloadConfig(manual_dir=tones_manual_dir)
  )
  with pytest.raises(ValueError, match='of array_record files, got tfrecord.$'):
    merge([tones_dir, tmp_path], tmp_path / 'merged')
  assert not (tmp_path / 'merged').exists()
