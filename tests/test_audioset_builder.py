"""AudioSet prepared from clips that FFmpeg really makes."""

import audioset_clips
import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from perceiver_jax.data import records
from perceiver_jax.data.audioset.builder import Preparation
from perceiver_jax.data.audioset.prepare import prepare

SHARDS_OF_THREE = Preparation(num_threads=2, segments_per_shard=3)

# (video id, start, file, pitch, labels, what is in the file)
CLIPS = [
  ('-mp4_stereo', 30.0, '{}_30.000.mp4', 500, [0],
   {'sample_rate_hz': 44_100, 'num_channels': 2, 'size': (64, 40)}),
  ('__mkv______', 0.0, '{}_0.mkv', 600, [1, 3],
   {'size': (40, 64), 'frame_rate_hz': 10}),
  ('webm-webm-w', 1.5, 'some/where/{}_1500_3500.webm', 700, [2], {}),
  ('wav0wav0wav', 10.0, 'Y{}_10.0-12.0.wav', 800, [0, 1, 2, 3],
   {'size': None, 'sample_rate_hz': 16_000}),
  ('YflacYflacY', 120.0, '{}.flac', 900, [1], {'size': None}),
  ('m4a_m4a_m4a', 7.0, '{}_7.m4a', 1000, [3], {'size': None}),
  ('long_long_l', 5.0, '{}_5.mp4', 1100, [0], {'secs': 3.0}),
  ('redredredre', 5.0, '{}_5.mp4', 1200, [0], {'colour': 'red'}),
]  # fmt: skip


@pytest.fixture(scope='module')
def manual_dir(tmp_path_factory):
  directory = tmp_path_factory.mktemp('manual')
  audioset_clips.write_classes(directory)
  audioset_clips.write_list(
    directory,
    'eval',
    [
      (video_id, start, start + 2, labels)
      for video_id, start, _, _, labels, _ in CLIPS
    ],
  )
  for video_id, _, name, hz, _, options in CLIPS:
    path = directory / 'clips' / name.format(video_id)
    audioset_clips.make_clip(path, hz=hz, **options)
  return directory


@pytest.fixture(scope='module')
def data_dir(manual_dir, tmp_path_factory):
  directory = tmp_path_factory.mktemp('tfds')
  prepare(manual_dir, directory, SHARDS_OF_THREE)
  return directory


@pytest.fixture(scope='module')
def examples(data_dir):
  source = records.Records(
    records.prepared_builder('audioset', str(data_dir)), 'eval'
  )
  return {source[i]['video_id'].decode(): source[i] for i in range(len(source))}


def _decoded(frame):
  return cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_COLOR_RGB)


def _pitch_hz(samples):
  return np.abs(np.fft.rfft(samples)).argmax() * 48_000 / len(samples)


def test_sound_has_its_pitch_and_loudness_whatever_the_rate_of_the_file(
  examples,
):
  for video_id, _, _, hz, _, _ in CLIPS:
    sound = examples[video_id]['audio']
    assert sound.dtype == np.int16
    assert abs(len(sound) - 96_000) <= 1024, video_id
    middle = sound[24_000:72_000]
    assert _pitch_hz(middle) == hz
    assert middle.std() == pytest.approx(32_767 / 8**0.5, rel=0.05)


def test_pictures_have_25_frames_a_second_and_a_short_side_of_256(examples):
  sizes = {
    '-mp4_stereo': (256, 410),
    '__mkv______': (410, 256),
    'webm-webm-w': (256, 384),
    'long_long_l': (256, 384),
    'redredredre': (256, 384),
  }
  for video_id, *_ in CLIPS:
    frames = [_decoded(frame) for frame in examples[video_id]['video']]
    assert len(frames) == (50 if video_id in sizes else 0)
    assert {frame.shape[:2] for frame in frames} <= {sizes.get(video_id)}
    # The pattern moves.
    if video_id in sizes and video_id != 'redredredre':
      assert len({frame.tobytes() for frame in frames}) >= 20


def test_colours_stay_what_they_are(examples):
  for frame in examples['redredredre']['video'][:3]:
    mean = _decoded(frame).reshape(-1, 3).mean(0)
    np.testing.assert_allclose(mean, [255, 0, 0], atol=4)


def test_example_says_which_segment_it_is_and_has_its_labels(examples):
  assert list(examples) == [video_id for video_id, *_ in CLIPS]
  for video_id, start, _, _, labels, _ in CLIPS:
    example = examples[video_id]
    assert (example['start'], example['end']) == (start, start + 2)
    assert (example['sample_rate'], example['fps']) == (48_000, 25)
    assert list(example['labels']) == labels


def test_classes_have_the_names_of_the_list(data_dir):
  builder = tfds.builder('audioset', data_dir=data_dir)
  names = builder.info.features['labels'].feature.names
  assert names == list(audioset_clips.CLASSES.values())


def test_tfds_reads_the_same_by_itself(data_dir, examples):
  directory = data_dir / 'audioset' / '1.0.0'
  builder = tfds.builder_from_directory(directory)
  assert list(builder.info.splits) == ['eval']
  for example in builder.as_data_source('eval'):
    expected = examples[example['video_id'].decode()]
    np.testing.assert_array_equal(example['audio'], expected['audio'])
    assert list(example['video']) == list(expected['video'])
