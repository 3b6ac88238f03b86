"""Measures the input pipeline of AudioSet, beside decoding films on the fly.

  python benchmarks/audioset_pipeline.py --json out.json

FFmpeg makes films of ten seconds, 640 x 360 pixels at 25 Hz, that move over
photos, with sound; the real builder prepares them. Then clips of 1.28 s are
made as in training. The alternative keeps the films, and has FFmpeg decode one
for each clip: from its beginning, or from the last key frame before the clip.
It is not even charged for crops, mirrors and colours. Times are CPU
milliseconds of this process, and of FFmpeg, for a clip: the least of several
turns.
"""

import argparse
import collections
import itertools
import json
import pathlib
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
from sklearn import datasets

from perceiver_jax import ffmpeg
from perceiver_jax.data import base, crop
from perceiver_jax.data.audioset import sampling
from perceiver_jax.data.audioset.config import AudioSetData
from perceiver_jax.data.audioset.prepare import prepare
from perceiver_jax.data.imagenet import decode_image
from perceiver_jax.data.resize import resize_bytes

BATCH_SIZE = 8
NUM_WARM_BATCHES = 3
FILM_SECS = 10
CLIP_SECS = 1.28
# What configs read, by their variant; the spectrogram is made on the device.
STREAMS = {
  'raw, mel': {'use_video': False},
  'video': {'use_audio': False},
  'raw_video, mel_video': {},
}


def main() -> None:
  """Measures, and prints tables in Markdown."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--num_films', type=int, default=6)
  parser.add_argument('--num_clips', type=int, default=96)
  parser.add_argument('--num_decoded', type=int, default=12)
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--json', type=pathlib.Path)
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as directory:
    films = _make_films(pathlib.Path(directory), options.num_films)
    start = _cpu_secs()
    prepare(directory, directory)
    prepared = (_cpu_secs() - start) * 1e3 / len(films)
    stages = [
      _turn_of_stages(_config(directory), options.num_clips)
      for _ in range(options.repeats)
    ]
    costs = {
      name: min(
        _turn(_config(directory, **fields), options.num_clips)
        for _ in range(options.repeats)
      )
      for name, fields in STREAMS.items()
    }
    rng = np.random.default_rng(0)
    for name, seeks in (
      ('FFmpeg, from the last key frame', True),
      ('FFmpeg, from the beginning', False),
    ):
      costs[name] = min(
        _turn_of_films(films, options.num_decoded, rng, seeks)
        for _ in range(options.repeats)
      )
    sizes = {
      'films': sum(film.stat().st_size for film in films) / len(films),
      'prepared': sum(
        path.stat().st_size
        for path in pathlib.Path(directory, 'audioset').rglob('*array_record*')
      )
      / len(films),
    }
  least = {name: min(turn[name] for turn in stages) for name in stages[0]}
  _print_table('pipeline', costs)
  _print_table('stage of raw_video', least)
  print(f'\nPreparing a film of 10 s: {prepared:.0f} CPU ms. Bytes:', sizes)
  if options.json:
    result = {'cpu_ms': costs, 'stages_cpu_ms': least, 'bytes': sizes}
    options.json.write_text(json.dumps(result | {'prepare_cpu_ms': prepared}))


def _make_films(directory: pathlib.Path, count: int) -> list[pathlib.Path]:
  """Writes films and the lists that name them; returns the films."""
  clips = directory / 'clips'
  clips.mkdir()
  films = []
  for index in range(count):
    photo = datasets.load_sample_images().images[index % 2]
    cv2.imwrite(str(directory / 'photo.png'), photo[..., ::-1])
    film = clips / f'film-{index:06}_0.mp4'
    move = f"zoompan=z=1.5:x='on*{1 + index / 4}':y='on/2':d={25 * FILM_SECS}"
    picture = ['-i', directory / 'photo.png']
    sound = ['-f', 'lavfi', '-t', FILM_SECS]
    sound += ['-i', f'anoisesrc=color=pink:r=48000:a=0.3:seed={index}']
    video = ['-vf', f'{move}:s=640x360:fps=25,format=yuv420p']
    command = [ffmpeg.executable(), '-v', 'error', *picture, *sound, *video]
    subprocess.run([*map(str, command), str(film)], check=True)
    films.append(film)
  (directory / 'class_labels_indices.csv').write_text('0,/m/0,Noise\n')
  lines = [f'{film.stem[:11]}, 0, {FILM_SECS}, "/m/0"' for film in films]
  (directory / 'balanced_train_segments.csv').write_text('\n'.join(lines))
  return films


def _config(data_dir: str, **fields: Any) -> AudioSetData:
  return AudioSetData(
    data_dir=data_dir,
    train_split='balanced_train',
    batch_size=BATCH_SIZE,
    eval_batch_size=1,
    num_threads=1,
    **fields,
  )


def _cpu_secs() -> float:
  """Returns the CPU time of this process and of those that it waited for."""
  children = resource.getrusage(resource.RUSAGE_CHILDREN)
  return time.process_time() + children.ru_utime + children.ru_stime


def _turn(config: AudioSetData, num_clips: int) -> float:
  """Returns the CPU milliseconds of a clip in batches of training."""
  batches: Iterator[Any] = base.train_batches(
    config, seed=0, start_step=0, shard=base.Shard()
  )
  # From now on batches are taken as fast as they are made, so that none are
  # made ahead of the clock or behind it.
  for _ in itertools.islice(batches, NUM_WARM_BATCHES):
    pass
  num_batches = -(-num_clips // BATCH_SIZE)
  start = _cpu_secs()
  for _ in itertools.islice(batches, num_batches):
    pass
  secs = _cpu_secs() - start
  batches.close()
  return secs * 1e3 / (num_batches * BATCH_SIZE)


def _turn_of_stages(config: AudioSetData, num_clips: int) -> dict[str, float]:
  """Returns the CPU milliseconds of each stage, a clip of sound and video."""
  source = config.make_source('balanced_train')
  rng = np.random.default_rng(0)
  secs: collections.Counter[str] = collections.Counter()

  def timed(stage: str, function: Callable[[], Any]) -> Any:
    start = time.thread_time()
    result = function()
    secs[stage] += time.thread_time() - start
    return result

  def resized(images: list[np.ndarray]) -> np.ndarray:
    window = crop.random_window(*images[0].shape[:2], rng)
    return np.stack(
      [resize_bytes(window.of(image), *config.frame_size) for image in images]
    )

  for index in range(num_clips):
    example = timed('read', lambda i=index: source[i % len(source)])
    (start,) = sampling.random_starts(
      len(example['video']), config.clip_frames, rng
    )
    files = example['video'][start : start + config.clip_frames]
    images = timed('decode', lambda f=files: list(map(decode_image, f)))
    video = timed('crop, resize', lambda i=images: resized(i))
    timed('colours', lambda v=video: config.colour_jitter(v, rng))
    sound = example['audio'], np.array([start]), config.clip_frames, 1920
    timed('sound', lambda s=sound: sampling.sound_parts(*s))
  return {name: total * 1e3 / num_clips for name, total in secs.items()}


def _turn_of_films(
  films: list[pathlib.Path], count: int, rng: np.random.Generator, seeks: bool
) -> float:
  """Returns the CPU milliseconds in which FFmpeg decodes a clip of a film."""
  start = _cpu_secs()
  for index in range(count):
    where = ['-ss', rng.uniform(0, FILM_SECS - CLIP_SECS)]
    film = ['-i', films[index % len(films)]]
    # Before the file, FFmpeg goes to the key frame; behind it, it decodes all.
    source = [*where, *film] if seeks else [*film, *where]
    threads = ['-threads', 1]
    length = ['-t', CLIP_SECS]
    video = ['-map', '0:v', *length, '-vf', 'fps=25,scale=-2:256']
    sound = ['-map', '0:a', *length, '-ac', 1, '-f', 's16le', '/dev/null']
    ffmpeg.run(
      'the film must be readable',
      [*threads, '-y', *source, *sound, *video]
      + ([] if seeks else where)
      + [*threads, '-pix_fmt', 'rgb24', '-f', 'rawvideo', '-'],
    )
  return (_cpu_secs() - start) * 1e3 / count


def _print_table(title: str, costs: dict[str, float]) -> None:
  print(f'\n| {title} | CPU ms / clip | clips / s / core |')
  print('|---|---|---|')
  for name, cost in costs.items():
    print(f'| {name} | {cost:.1f} | {1e3 / cost:.0f} |')


if __name__ == '__main__':
  main()
