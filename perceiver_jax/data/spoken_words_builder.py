"""A TFDS builder over words that eSpeak NG speaks in many voices."""

import concurrent.futures
import io
import itertools
import math
import os
import shutil
import subprocess
import wave
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, Int16

WORDS = ('yes', 'no', 'up', 'down', 'left', 'right', 'on', 'off', 'stop', 'go')
SAMPLE_RATE_HZ = 8000
NUM_SAMPLES = 8192
# With 'en-gb' itself, espeak-ng 1.51 would ignore the speaker.
_ACCENTS = ('en-us', 'en-029', 'en-gb-scotland', 'en-gb-x-rp')
# Speakers, and words a minute; no speaker and no speed is in both splits.
_VOICES = {
  'train': (
    ('m1', 'm2', 'm3', 'm4', 'm5', 'f1', 'f2', 'f3', 'klatt'),
    (130, 160, 190),
  ),
  'test': (('m7', 'f4', 'croak'), (145, 175)),
}
_SILENCE = 0.01  # Of full scale; what is below it at both ends is cut off.

_DESCRIPTION = """
Ten English words as the speech synthesiser eSpeak NG says them, one second of
8 kHz each: in 4 accents by 9 speakers at 3 speeds for training (1,080), and by
3 other speakers at 2 other speeds for test (240).
"""


class SpokenWords(tfds.core.GeneratorBasedBuilder):
  """The words; named `spoken_words` in TFDS."""

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'Initial release.'}  # noqa: RUF012

  def _info(self) -> tfds.core.DatasetInfo:
    audio = tfds.features.Tensor(
      shape=(NUM_SAMPLES, 1),
      dtype=np.int16,
      encoding=tfds.features.Encoding.BYTES,
    )
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          'audio': audio,
          'label': tfds.features.ClassLabel(names=WORDS),
          'voice': tfds.features.Text(),
          'words_a_minute': np.int32,
        }
      ),
      supervised_keys=('audio', 'label'),
      homepage='https://github.com/espeak-ng/espeak-ng',
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
    del dl_manager  # Nothing is downloaded.
    _check_espeak()
    return {split: self._generate_examples(split) for split in _VOICES}

  def _generate_examples(
    self, split: str
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    _, speeds = _VOICES[split]
    spoken = list(itertools.product(_voices(split), speeds, WORDS))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
      sounds = threads.map(lambda words: speak(*words), spoken)
      for (voice, speed, word), sound in zip(spoken, sounds, strict=True):
        yield (
          f'{voice} {speed} {word}',
          {
            'audio': _middle(sound),
            'label': word,
            'voice': voice,
            'words_a_minute': speed,
          },
        )


def _voices(split: str) -> list[str]:
  speakers, _ = _VOICES[split]
  return [f'{a}+{s}' for a, s in itertools.product(_ACCENTS, speakers)]


def _check_espeak() -> None:
  """Checks that there is a speech synthesiser, and that it has the voices.

  Raises:
    FileNotFoundError: there is none.
    ValueError: two voices are the same.
  """
  if shutil.which('espeak-ng') is None:
    raise FileNotFoundError(
      'espeak-ng must be installed to prepare spoken_words, got no such '
      'program; on Debian and Ubuntu: apt-get install espeak-ng.'
    )
  heard: dict[bytes, str] = {}
  # An unknown speaker is no error: it gets the voice of the accent alone.
  for voice in (*_ACCENTS, *_voices('train'), *_voices('test')):
    sound = speak(voice, 150, WORDS[0]).tobytes()
    if sound in heard:
      raise ValueError(
        f'espeak-ng must have the voice {voice!r}, got the sound of '
        f'{heard[sound]!r}; `espeak-ng --voices=variant` lists its speakers.'
      )
    heard[sound] = voice


def speak(
  voice: str, words_a_minute: int, word: str
) -> Float[np.ndarray, ' S']:
  """Returns a word as it is spoken, at 8 kHz, in [-1, 1].

  Raises:
    ValueError: espeak-ng fails, or what it says cannot be heard.
  """
  # Imported here because it takes a second and is needed once.
  from scipy import signal

  rule = f'espeak-ng must speak {word!r} as {voice!r}'
  command = ['espeak-ng', '-v', voice, '-s', str(words_a_minute), '--stdout']
  spoken = subprocess.run([*command, word], capture_output=True, check=False)
  if spoken.returncode or not spoken.stdout:
    said = ' '.join(spoken.stderr.decode(errors='replace').split())
    raise ValueError(
      f'{rule}, got exit status {spoken.returncode}: {said or "no message"}'
    )
  with wave.open(io.BytesIO(spoken.stdout)) as file:
    rate = file.getframerate()
    # The header of a stream does not know the length.
    samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
  divisor = math.gcd(SAMPLE_RATE_HZ, rate)
  sound = signal.resample_poly(
    samples / 2.0**15, SAMPLE_RATE_HZ // divisor, rate // divisor
  )
  if np.max(np.abs(sound), initial=0.0) <= _SILENCE:
    raise ValueError(f'{rule}, got silence.')
  return sound


def _middle(sound: Float[np.ndarray, ' S']) -> Int16[np.ndarray, 'samples 1']:
  """Cuts silence off both ends and puts what is left in the middle."""
  (loud,) = np.nonzero(np.abs(sound) > _SILENCE)
  sound = sound[loud[0] : loud[-1] + 1]
  if len(sound) > NUM_SAMPLES:
    raise ValueError(
      f'a word must be at most {NUM_SAMPLES} samples long, got {len(sound)}.'
    )
  samples = np.zeros((NUM_SAMPLES, 1), np.int16)
  start = (NUM_SAMPLES - len(sound)) // 2
  rounded = np.clip(np.round(sound * 2.0**15), -(2**15), 2**15 - 1)
  samples[start : start + len(sound), 0] = rounded.astype(np.int16)
  return samples
