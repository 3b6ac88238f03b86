"""Clips of AudioSet: when, what of the frames, and which examples."""

import logging
import pathlib
import re

import audioset_dir as small_audioset
import cv2
import numpy as np
import pytest
from etils import epath

from perceiver_jax.data import base, records
from perceiver_jax.data.audioset import contents as contents_module
from perceiver_jax.data.audioset import sampling
from perceiver_jax.data.audioset.builder import Preparation
from perceiver_jax.data.audioset.config import AudioSetData
from perceiver_jax.data.audioset.contents import Contents, contents_of
from perceiver_jax.data.audioset.prepare import merge, prepare
from perceiver_jax.data.colour import ColourJitter

NUM_FRAMES = 250
SAMPLES_PER_FRAME = 1920
PLAIN = {'flip_prob': 0.0, 'colour_jitter': None}


def jpeg(image):
  quality = [cv2.IMWRITE_JPEG_QUALITY, 100]
  return cv2.imencode('.jpg', image, quality)[1].tobytes()


def numbered_example(num_frames=NUM_FRAMES, num_samples=None, **changes):
  """Returns an example whose frames and samples say which frame they are of."""
  if num_samples is None:
    num_samples = num_frames * SAMPLES_PER_FRAME
  frames = [
    jpeg(np.full((32, 48, 3), number, np.uint8)) for number in range(num_frames)
  ]
  sound = (np.arange(num_samples) // SAMPLES_PER_FRAME).astype(np.int16)
  return {
    'video_id': b'numbered---',
    'start': np.float32(30),
    'sample_rate': 48_000,
    'fps': 25,
    'audio': sound,
    'video': np.array(frames, object),
    'labels': np.eye(3, dtype=np.uint8)[1],
  } | changes


@pytest.fixture(scope='module')
def example():
  return numbered_example()


def config_of(data_dir='', **fields):
  defaults = {'batch_size': 13, 'eval_batch_size': 4, 'frame_size': (16, 24)}
  return AudioSetData(data_dir=data_dir, **defaults | fields)


def frames_of(video):
  """Returns the numbers of frames, of pictures that are plain."""
  assert (video == video[..., :1, :1, :1]).all()
  return video[..., 0, 0, 0].astype(int)


def test_the_default_is_the_published_protocol():
  config = AudioSetData(batch_size=1024, eval_batch_size=16)
  config.validate()
  assert config.train_split == 'balanced_train+unbalanced_train'
  assert config.clip_frames / config.frame_rate_hz == 1.28
  assert config.clip_frames * SAMPLES_PER_FRAME == 61_440
  assert config.num_eval_clips == 16
  assert config.frame_size == (224, 224)
  assert not config.balance_classes


def test_evaluation_sees_16_overlapping_clips_over_ten_seconds(example):
  arrays = config_of().preprocess(example, None)
  firsts = [0, 15, 29, 44, 58, 73, 87, 102, 116, 131, 145, 160, 174, 189, 203]
  expected = np.add.outer([*firsts, 218], np.arange(32))
  assert expected[-1, -1] == 249
  np.testing.assert_array_equal(frames_of(arrays['video']), expected)
  assert arrays['audio'].shape == (16, 61_440, 1)
  sounds = arrays['audio'].reshape(16, 32, SAMPLES_PER_FRAME)
  np.testing.assert_array_equal(
    sounds, np.broadcast_to(expected[..., None], sounds.shape)
  )
  np.testing.assert_array_equal(arrays['labels'], [0, 1, 0])


def test_training_clip_is_from_anywhere_and_sound_fits_the_pictures(example):
  config = config_of(frame_size=(8, 8), **PLAIN)
  rng = np.random.default_rng(0)
  starts = []
  for _ in range(60):
    arrays = config.preprocess(example, rng)
    assert arrays['audio'].shape == (1, 61_440, 1)
    (numbers,) = frames_of(arrays['video'])
    np.testing.assert_array_equal(numbers, numbers[0] + np.arange(32))
    sound = arrays['audio'].reshape(32, SAMPLES_PER_FRAME)
    np.testing.assert_array_equal(
      sound, np.broadcast_to(numbers[:, None], sound.shape)
    )
    starts.append(numbers[0])
  assert min(starts) < 20 and max(starts) > 200


def test_starts_are_uniform_from_the_first_to_the_last():
  rng = np.random.default_rng(0)
  starts = [int(sampling.random_starts(35, 32, rng)[0]) for _ in range(400)]
  counts = np.bincount(starts)
  assert len(counts) == 4
  assert counts.min() > 70


@pytest.mark.parametrize(
  ('streams', 'names'),
  [
    ({'use_video': False}, {'audio', 'labels'}),
    ({'use_audio': False}, {'video', 'labels'}),
    ({}, {'audio', 'video', 'labels'}),
  ],
)
def test_only_what_is_asked_for_is_decoded(streams, names, example):
  wanted = {name: example[name] for name in example if name in names}
  other = {'audio': 'not to be read', 'video': [b'not to be decoded']}
  arrays = config_of(**streams).preprocess(example | other | wanted, None)
  assert set(arrays) == names


def test_clips_are_of_the_time_that_has_sound_and_pictures():
  example = numbered_example(60, 40 * SAMPLES_PER_FRAME)
  arrays = config_of(num_eval_clips=2).preprocess(example, None)
  np.testing.assert_array_equal(frames_of(arrays['video'])[:, 0], [0, 8])
  assert arrays['audio'].max() == 39
  # Alone, pictures are seen to their end.
  config = config_of(num_eval_clips=2, use_audio=False)
  video = config.preprocess(example, None)['video']
  np.testing.assert_array_equal(frames_of(video)[:, 0], [0, 28])


def test_example_shorter_than_a_clip_ends_with_silence_and_its_last_frame():
  example = numbered_example(10, 8 * SAMPLES_PER_FRAME)
  example['audio'] = example['audio'] + np.int16(1)
  for rng in (None, np.random.default_rng(0)):
    arrays = config_of(num_eval_clips=2, **PLAIN).preprocess(example, rng)
    numbers = frames_of(arrays['video'])
    assert (numbers == [*range(10), *[9] * 22]).all()
    sound = arrays['audio'].reshape(len(numbers), 32, -1)[..., 0]
    assert (sound == [*range(1, 9), *[0] * 24]).all()


def test_what_is_missing_is_silence_or_grey(example):
  arrays = config_of().preprocess(
    example | {'video': np.array([], object)}, None
  )
  assert arrays['video'].shape == (16, 32, 16, 24, 3)
  # Normalised to [-1, 1] it is nearly 0, as when a video is dropped.
  assert np.abs(arrays['video'] / 127.5 - 1).max() < 0.01
  assert arrays['audio'].any()
  silent = example | {'audio': np.zeros(0, np.int16)}
  arrays = config_of().preprocess(silent, None)
  assert arrays['audio'].shape == (16, 61_440, 1)
  assert not arrays['audio'].any()
  assert frames_of(arrays['video'])[-1, -1] == 249


def gradient_example():
  """Returns frames whose pixels say where they are, the same in each."""
  rows, columns = np.mgrid[:64, :64]
  image = np.stack([4 * rows, 4 * columns, 0 * rows], -1).astype(np.uint8)
  # OpenCV takes blue first.
  frames = [jpeg(image[..., ::-1])] * 40
  return numbered_example(40, video=np.array(frames, object))


def test_crop_and_flip_are_the_same_in_all_frames_of_a_clip():
  config = config_of(colour_jitter=None, frame_size=(16, 16))
  example, rng = gradient_example(), np.random.default_rng(0)
  corners, is_flipped = [], []
  for _ in range(40):
    (video,) = config.preprocess(example, rng)['video']
    assert (video == video[0]).all()
    rows, columns = video[0, :, :, 0].mean(1), video[0, :, :, 1].mean(0)
    assert rows[0] < rows[-1]
    is_flipped.append(columns[0] > columns[-1])
    corners.append((rows[0], np.sort(columns)[0], np.ptp(rows)))
  assert 8 < sum(is_flipped) < 32
  assert len(set(corners)) > 30
  # A tenth of the area at least, so 0.27 of a side if the ratio is 4/3.
  assert 0.25 * 240 < min(size for *_, size in corners) < 0.6 * 240


@pytest.mark.parametrize('flip_prob', [0.0, 1.0])
def test_flip_prob_is_the_share_of_mirror_images(flip_prob):
  config = config_of(flip_prob=flip_prob, colour_jitter=None)
  rng = np.random.default_rng(0)
  for _ in range(5):
    video = config.preprocess(gradient_example(), rng)['video']
    columns = video[0, 0, :, :, 1].mean(0)
    assert (columns[0] > columns[-1]) == bool(flip_prob)


def test_evaluation_takes_the_middle_as_it_is():
  config = config_of(frame_size=(56, 56), num_eval_clips=1)
  video = config.preprocess(gradient_example(), None)['video']
  # 224 of 256 are 56 of 64 pixels: 4 are left out at each side.
  np.testing.assert_allclose(
    video[0, 0, :, 20, 0], 4 * np.arange(4, 60), atol=3
  )
  np.testing.assert_allclose(
    video[0, 0, 20, :, 1], 4 * np.arange(4, 60), atol=3
  )


def test_colours_change_by_the_jitter_and_in_training_only(example):
  class Recording(ColourJitter):
    def __call__(self, video, rng):
      assert video.shape == (32, 16, 24, 3)
      return np.full_like(video, 77)

  config = config_of(colour_jitter=Recording())
  video = config.preprocess(example, np.random.default_rng(0))['video']
  assert (video == 77).all()
  assert config.preprocess(example, None)['video'].std() > 10


@pytest.mark.parametrize(
  ('feature', 'value', 'message'),
  [
    ('sample_rate', 16_000, 'sample_rate_hz must be .* 16000, got 48000'),
    ('fps', 30, 'frame_rate_hz must be that of the data, 30, got 25'),
  ],
)
def test_data_of_other_rates_is_refused(feature, value, message, example):
  with pytest.raises(ValueError, match=message):
    config_of().preprocess(example | {feature: value}, None)


def test_frame_that_cannot_be_decoded_is_named(example):
  frames = example['video'].copy()
  frames[3] = frames[3][:20]
  with pytest.raises(base.UnreadableError, match=r'numbered--- at 30\.0 s: an'):
    config_of().preprocess(example | {'video': frames}, None)


def test_labels_sizes_and_spec_come_from_the_prepared_data(audioset_dir):
  config = config_of(audioset_dir)
  config.validate()
  assert config.num_train_examples == 8 + 5
  assert config.num_eval_examples == 7
  assert config.class_names[:2] == ('Class 0', 'Class 1')
  assert config.element_spec() == {
    'audio': base.ArraySpec((1, 61_440, 1), np.dtype(np.int16)),
    'video': base.ArraySpec((1, 32, 16, 24, 3), np.dtype(np.uint8)),
    'labels': base.ArraySpec((527,), np.dtype(np.uint8)),
  }


def test_data_that_is_not_prepared_is_an_error_that_says_how(tmp_path):
  command = 'data.audioset prepare --manual_dir=DIR --data_dir='
  with pytest.raises(ValueError, match=f'`python .*{command}{tmp_path}`'):
    config_of(str(tmp_path)).element_spec()


def evaluated(config):
  """Returns the examples of an evaluation, leaves [N, ...]."""
  batches = list(base.eval_batches(config, shard=base.Shard()))
  return {
    name: np.concatenate([batch[name][batch['mask']] for batch in batches])
    for name in batches[0]
  }


def test_sounds_and_pictures_are_those_of_the_labels(audioset_dir):
  arrays = evaluated(config_of(audioset_dir, num_eval_clips=2))
  for number in range(7):
    labels = np.flatnonzero(arrays['labels'][number]).tolist()
    assert labels == small_audioset.labels_of(number)
    video = arrays['video'][number] / 255
    red, _, blue = video.mean(axis=(0, 1, 2, 3))
    colour = [500] * int(red > 0.7) + [501] * int(blue > 0.7)
    sound = arrays['audio'][number, 1, :, 0].astype(float)
    pitch_hz = np.abs(np.fft.rfft(sound)).argmax() / 1.28
    pitch = [10 + i for i in range(2) if abs(pitch_hz - (300, 1500)[i]) < 9]
    assert pitch + colour == labels


@pytest.mark.parametrize(
  ('streams', 'left_out'),
  [({}, []), ({'use_video': False}, [2]), ({'use_audio': False}, [1])],
)
def test_examples_without_anything_that_is_asked_for_are_left_out(
  streams, left_out, audioset_dir
):
  config = config_of(audioset_dir, num_eval_clips=1, **streams)
  kept = [number for number in range(7) if number not in left_out]
  assert config.num_eval_examples == len(kept)
  labels = evaluated(config)['labels']
  for number, row in zip(kept, labels, strict=True):
    expected = small_audioset.labels_of(number)
    assert np.flatnonzero(row).tolist() == expected
  config.eval_split = 'eval[1:3]+eval[6:]'
  wanted = [n for n in (1, 2, 6) if n not in left_out]
  assert config.num_eval_examples == len(wanted)


def test_contents_are_found_once_and_kept(audioset_dir, caplog, monkeypatch):
  builder = records.prepared_builder('audioset', audioset_dir)
  whole = contents_of(builder, 'eval')
  monkeypatch.setattr(contents_module, '_cache', {})
  monkeypatch.setattr(contents_module, '_found', None)
  with caplog.at_level(logging.WARNING):
    part = contents_of(builder, 'eval[4:]+balanced_train[:3]')
  assert not caplog.messages
  np.testing.assert_array_equal(whole.has_audio, [1, 1, 0, 1, 1, 1, 1])
  np.testing.assert_array_equal(whole.has_video, [1, 0, 1, 1, 1, 1, 1])
  numbers = [4, 5, 6, 0, 1, 2]
  labels = [small_audioset.labels_of(number) for number in numbers]
  np.testing.assert_array_equal(part.num_labels, list(map(len, labels)))
  np.testing.assert_array_equal(part.labels, np.concatenate(labels))
  np.testing.assert_array_equal(part.has_video, [1, 1, 1, 1, 0, 1])


def test_contents_of_merged_parts_come_one_after_the_other(
  audioset_dir, tmp_path, monkeypatch
):
  monkeypatch.setattr(contents_module, '_found', None)
  manual_dir = tmp_path / 'manual'
  manual_dir.mkdir()
  for name in ('class_labels_indices.csv', 'eval_segments.csv', 'clips'):
    (manual_dir / name).symlink_to(
      pathlib.Path(audioset_dir).parent / 'manual' / name
    )
  for number in (1, 2):
    part = Preparation(part=(number, 2))
    prepare(manual_dir, tmp_path / f'part{number}', part)
  merge([tmp_path / 'part1', tmp_path / 'part2'], tmp_path / 'merged')
  builder = records.prepared_builder('audioset', str(tmp_path / 'merged'))
  found = contents_of(builder, 'eval')
  np.testing.assert_array_equal(found.has_video, [1, 1, 1, 1, 0, 1, 1])
  labels = map(small_audioset.labels_of, (0, 2, 4, 6, 1, 3, 5))
  np.testing.assert_array_equal(found.labels, np.concatenate(list(labels)))


def test_part_that_comes_twice_is_refused(audioset_dir, tmp_path):
  with pytest.raises(ValueError, match='parts must differ, got one twice'):
    merge([audioset_dir, f'{audioset_dir}/'], tmp_path)


def test_contents_that_cannot_be_kept_are_found_all_the_same(
  audioset_dir, caplog, monkeypatch
):
  builder = records.prepared_builder('audioset', audioset_dir)
  expected = contents_of(builder, 'eval')

  def refuse(*_):
    raise PermissionError('read only')

  monkeypatch.setattr(contents_module, '_cache', {})
  monkeypatch.setattr(contents_module, 'save', refuse)
  monkeypatch.setattr(
    contents_module, '_path', lambda *_: epath.Path('/no/path')
  )
  with caplog.at_level(logging.WARNING):
    found = contents_of(builder, 'eval')
  assert [message.split()[0] for message in caplog.messages] == [
    'Reading', '/no/path',
  ]  # fmt: skip
  for actual, array in zip(found, expected, strict=True):
    np.testing.assert_array_equal(actual, array)


def test_balance_draws_a_class_first_and_then_an_example_of_it():
  labels = [[0], [0], [0, 7], [2, 7], [0], []]
  contents = Contents(
    has_audio=np.ones(6, bool),
    has_video=np.ones(6, bool),
    num_labels=np.array([len(some) for some in labels]),
    labels=np.concatenate(labels).astype(np.int32),
  )
  # Class 0 has four examples, class 2 one, class 7 two; 1/3 for each class.
  shares = [1 / 4, 1 / 4, 1 / 4 + 1 / 2, 1 + 1 / 2, 1 / 4, 0]
  expected = np.array(shares) / 3
  np.testing.assert_allclose(contents.class_balance(), expected)
  np.testing.assert_allclose(expected.sum(), 1.0)


def test_balanced_training_draws_by_class_among_what_is_used(audioset_dir):
  config = config_of(audioset_dir, balance_classes=True, use_video=False)
  weights = config.train_weights()
  assert len(weights) == config.num_train_examples == 13 - 2
  # Number 2 of either list has no sound.
  numbers = [number for number in (*range(8), *range(5)) if number != 2]
  owners = {}
  for row, number in enumerate(numbers):
    for label in small_audioset.labels_of(number):
      owners.setdefault(label, []).append(row)
  expected = np.zeros(11)
  for rows in owners.values():
    expected[rows] += 1 / len(rows) / len(owners)
  np.testing.assert_allclose(weights, expected)
  assert config_of(audioset_dir).train_weights() is None


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('clip_frames', 0),
    ('num_eval_clips', 0),
    ('frame_size', (0, 224)),
    ('sample_rate_hz', 44_101),
    ('crop_area', (0.5, 0.1)),
    ('crop_ratio', (2.0, 1.0)),
    ('flip_prob', 1.5),
    ('eval_crop_fraction', 1.5),
  ],
)
def test_fields_out_of_range_are_refused(field, value):
  config = config_of(**{field: value})
  message = f'{field} must .* got {re.escape(str(value))}'
  with pytest.raises(ValueError, match=message):
    config.validate()


def test_neither_sound_nor_pictures_is_refused():
  with pytest.raises(ValueError, match='use_audio or use_video must be True'):
    config_of(use_audio=False, use_video=False).validate()
