"""From where on a clip of AudioSet is too short, truncated or silent."""

import wave

import audioset_clips
import numpy as np
import pytest

from perceiver_jax.data.audioset.clips import Remark, read_clip


def _write_wav(path, samples):
  with wave.open(str(path), 'wb') as file:
    file.setparams((1, 2, 48_000, 0, 'NONE', ''))
    file.writeframes(np.asarray(samples, '<i2').tobytes())
  return str(path)


def _remarks(path, samples, secs=2.0):
  """Returns what is said of sound alone, but that it is alone."""
  remarks = list(read_clip(_write_wav(path / 'a.wav', samples), secs).remarks)
  if Remark.AUDIO_ONLY in remarks:
    remarks.remove(Remark.AUDIO_ONLY)
  return remarks


@pytest.mark.parametrize(
  ('num_samples', 'remarks'),
  [
    (61_439, [Remark.TOO_SHORT]),
    (61_440, [Remark.TRUNCATED]),
    (91_000, [Remark.TRUNCATED]),
    (91_400, []),
    (96_000, []),
  ],
)
def test_sound_is_too_short_below_128_hundredths_and_truncated_by_a_tenth(
  num_samples, remarks, tmp_path
):
  assert _remarks(tmp_path, np.full(num_samples, 999)) == remarks


@pytest.mark.parametrize(
  ('num_frames', 'remarks'),
  [
    (31, [Remark.TOO_SHORT]),
    (32, [Remark.TRUNCATED, Remark.VIDEO_ONLY]),
    (47, [Remark.TRUNCATED, Remark.VIDEO_ONLY]),
    (48, [Remark.VIDEO_ONLY]),
  ],
)
def test_pictures_are_too_short_below_32_frames_and_truncated_by_three(
  num_frames, remarks, tmp_path
):
  path = tmp_path / 'a.mkv'
  audioset_clips.make_clip(path, secs=num_frames / 25, hz=None)
  clip = read_clip(str(path), 2.0)
  assert list(clip.remarks) == remarks
  assert len(clip.frames) == (num_frames if num_frames > 31 else 0)


@pytest.mark.parametrize('sign', [-1, 1])
def test_sound_is_silent_up_to_60_decibels_below_full_scale(sign, tmp_path):
  for peak, remarks in ((32, [Remark.SILENT]), (33, [])):
    samples = np.zeros(96_000)
    samples[50_000] = sign * peak
    assert _remarks(tmp_path, samples) == remarks


def test_sound_of_the_lowest_sample_alone_is_not_silent(tmp_path):
  samples = np.zeros(96_000)
  samples[::2] = -(2**15)
  assert _remarks(tmp_path, samples) == []


def test_segment_need_not_last_for_whole_seconds(tmp_path):
  path = tmp_path / 'a.mkv'
  audioset_clips.make_clip(path)
  clip = read_clip(str(path), 1.64)
  assert (len(clip.sound), len(clip.frames)) == (78_720, 41)
  assert not clip.remarks
