"""Spoken words: what eSpeak NG says, and how it is stored."""

import collections
import re
import shutil
import subprocess
import wave

import numpy as np
import pytest

from perceiver_jax.data import spoken_words_builder
from perceiver_jax.data.spoken_words import SpokenWordsData
from perceiver_jax.data.spoken_words_builder import WORDS, speak

needs_espeak = pytest.mark.skipif(
  shutil.which('espeak-ng') is None,
  reason='espeak-ng, which speaks the words, is not installed',
)


def _examples(data_dir, split):
  source = SpokenWordsData(data_dir=data_dir).make_source(split)
  return [source[index] for index in range(len(source))]


def test_words_have_the_sizes_and_classes_they_should(spoken_words_dir):
  config = SpokenWordsData(data_dir=spoken_words_dir, max_shift=100)
  config.validate()
  assert (config.num_train_examples, config.num_eval_examples) == (1080, 240)
  assert config.class_names == WORDS
  spec = config.element_spec()
  assert {name: (s.shape, s.dtype) for name, s in spec.items()} == {
    'audio': ((8192, 1), np.dtype(np.int16)),
    'label': ((), np.dtype(np.int32)),
  }


def test_speakers_and_speeds_of_the_test_are_not_in_training(spoken_words_dir):
  seen = {}
  for split in ('train', 'test'):
    examples = _examples(spoken_words_dir, split)
    labels = collections.Counter(example['label'] for example in examples)
    assert len(set(labels.values())) == 1 and len(labels) == 10
    seen[split] = {
      'speaker': {e['voice'].decode().partition('+')[2] for e in examples},
      'speed': {int(e['words_a_minute']) for e in examples},
    }
  for name in ('speaker', 'speed'):
    assert not seen['train'][name] & seen['test'][name]
  assert len(seen['train']['speaker']) == 9 and len(seen['train']['speed']) == 3


def test_sounds_are_loud_in_the_middle_and_silent_at_the_ends(spoken_words_dir):
  for example in _examples(spoken_words_dir, 'test'):
    samples = example['audio'][:, 0].astype(float) / 2**15
    (heard,) = np.nonzero(samples)
    before, after = heard[0], len(samples) - 1 - heard[-1]
    assert abs(before - after) <= 2 and before > 200
    assert 0.2 < np.abs(samples).max() <= 1.0


def test_all_sounds_are_different(spoken_words_dir):
  examples = [
    example
    for split in ('train', 'test')
    for example in _examples(spoken_words_dir, split)
  ]
  sounds = {example['audio'].tobytes() for example in examples}
  assert len(sounds) == len(examples)


@needs_espeak
def test_speech_is_that_of_espeak_at_another_rate(tmp_path):
  path = tmp_path / 'word.wav'
  subprocess.run(
    ['espeak-ng', '-v', 'en-us+f2', '-s', '150', '-w', path, 'stop'], check=True
  )
  with wave.open(str(path)) as file:
    rate, count = file.getframerate(), file.getnframes()
    original = np.frombuffer(file.readframes(count), np.int16) / 2**15
  spoken = speak('en-us+f2', 150, 'stop')
  assert rate == 22050
  assert abs(len(spoken) / 8000 - count / rate) < 1e-3
  # What is below 3 kHz is the same, frequency by frequency.
  seconds = min(len(spoken) / 8000, count / rate)
  frequencies = np.arange(100, 3000, 7.0)

  def spectrum(samples, rate):
    times = np.arange(int(seconds * rate)) / rate
    waves = np.exp(-2j * np.pi * frequencies[:, np.newaxis] * times)
    return waves @ samples[: len(times)] / rate

  expected, actual = spectrum(original, rate), spectrum(spoken, 8000)
  error = np.abs(actual - expected).max() / np.abs(expected).max()
  assert error < 0.02


@needs_espeak
def test_slower_speech_is_longer():
  lengths = [len(speak('en-us+m1', speed, 'down')) for speed in (130, 190)]
  assert lengths[0] > 1.1 * lengths[1]


@needs_espeak
def test_voice_that_does_not_exist_is_an_error_with_what_espeak_says():
  with pytest.raises(ValueError) as caught:
    speak('nope', 150, 'down')
  assert str(caught.value) == (
    "espeak-ng must speak 'down' as 'nope', got exit status 1: Error: The "
    'specified espeak-ng voice does not exist.'
  )


@needs_espeak
def test_word_without_a_sound_is_an_error():
  with pytest.raises(ValueError, match=r"'\.' as 'en-us', got silence"):
    speak('en-us', 150, '.')


def test_espeak_that_fails_without_a_word_is_an_error(tmp_path, monkeypatch):
  program = tmp_path / 'espeak-ng'
  program.write_text('#!/bin/sh\nexit 0\n')
  program.chmod(0o755)
  monkeypatch.setenv('PATH', str(tmp_path))
  with pytest.raises(ValueError, match='got exit status 0: no message'):
    speak('en-us', 150, 'down')


@needs_espeak
@pytest.mark.parametrize(
  ('train', 'test', 'voice', 'other'),
  [
    ('m1', 'nope', 'en-us+nope', 'en-us'),
    ('nope', 'm1', 'en-us+nope', 'en-us'),
    ('m1', 'm1', 'en-us+m1', 'en-us+m1'),
  ],
)
def test_voice_that_espeak_takes_for_another_is_an_error(
  train, test, voice, other, tmp_path, monkeypatch
):
  voices = {'train': ((train,), (130,)), 'test': ((test,), (145,))}
  monkeypatch.setattr(spoken_words_builder, '_ACCENTS', ('en-us',))
  monkeypatch.setattr(spoken_words_builder, '_VOICES', voices)
  message = re.escape(f'the voice {voice!r}, got the sound of {other!r}')
  with pytest.raises(ValueError, match=message):
    SpokenWordsData(data_dir=str(tmp_path)).builder()
  assert not list(tmp_path.glob('spoken_words/1*'))


def test_without_espeak_the_error_says_how_to_get_it(tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', str(tmp_path))
  with pytest.raises(FileNotFoundError, match='apt-get install espeak-ng'):
    SpokenWordsData(data_dir=str(tmp_path)).builder()


def test_training_moves_sounds_by_up_to_max_shift_and_zeros_move_in():
  samples = np.arange(1, 21, dtype=np.int16)[:, np.newaxis]
  example = {'audio': samples, 'label': 3}
  config = SpokenWordsData(max_shift=2)
  padded = np.pad(samples, ((2, 2), (0, 0)))
  windows = {padded[start : start + 20].tobytes() for start in range(5)}
  rng = np.random.default_rng(0)
  moved = [config.preprocess(example, rng) for _ in range(100)]
  assert {example['audio'].tobytes() for example in moved} == windows
  assert {(int(e['label']), e['label'].dtype) for e in moved} == {
    (3, np.dtype(np.int32))
  }


@pytest.mark.parametrize(('max_shift', 'seed'), [(0, 3), (2, None)])
def test_sounds_do_not_move_in_evaluation_or_without_max_shift(max_shift, seed):
  samples = np.arange(1, 21, dtype=np.int16)[:, np.newaxis]
  rng = None if seed is None else np.random.default_rng(seed)
  for _ in range(20):
    actual = SpokenWordsData(max_shift=max_shift).preprocess(
      {'audio': samples, 'label': 3}, rng
    )
    np.testing.assert_array_equal(actual['audio'], samples)


def test_negative_shifts_are_refused():
  with pytest.raises(ValueError, match=r'max_shift must .* got -1'):
    SpokenWordsData(max_shift=-1).validate()
