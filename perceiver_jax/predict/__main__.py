"""`python -m perceiver_jax.predict TASK MODEL ...`: real files in and out."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

import numpy as np

from perceiver_jax.model import PerceiverConfig
from perceiver_jax.predict import media, pictures
from perceiver_jax.predict.attention import check_latents, image_attention
from perceiver_jax.predict.autoencoding import Clips, autoencode, clips_of
from perceiver_jax.predict.classification import (
  checked_names,
  classify,
  crop_images,
  image_input,
  read_class_names,
)
from perceiver_jax.predict.flow import estimate_flow, flow_input
from perceiver_jax.predict.images import IMAGENET, Colours
from perceiver_jax.predict.language import fill_mask, mask_part
from perceiver_jax.predict.listening import (
  MINUS_ONE_TO_ONE,
  Maps,
  clip_attention,
  listen,
  spectrogram,
)
from perceiver_jax.predict.recordings import (
  FRAME_RATE_HZ,
  ClipFormat,
  Recording,
  clip_format,
  cut,
)
from perceiver_jax.weights.native import Pretrained, load_pretrained
from perceiver_jax.xla_flags import set_cpu_flags

_FRAME_RATE_HZ = 25
"""Of the published autoencoder: 16 frames and 30,720 samples are 0.64 s."""


def main(argv: Sequence[str] | None = None) -> None:
  """Runs one task.

  Raises:
    SystemExit: something is wrong; it holds one line that says what.
  """
  set_cpu_flags()
  arguments = _parser().parse_args(argv)
  try:
    arguments.run(arguments)
  except (ValueError, TypeError, OSError, ImportError) as error:
    sys.exit(f'{type(error).__name__}: {error}')


def _load(path: str) -> Pretrained:
  """Reads a file of weights, or the newest checkpoint of a training."""
  if not os.path.isdir(path):
    return load_pretrained(path)
  # Imported here because weights alone do not need the extra [train].
  from perceiver_jax.training.initial_weights import load_workdir

  return load_workdir(path)


def _classify(arguments: argparse.Namespace) -> None:
  pretrained = _load(arguments.model)
  channels = image_input(pretrained.config).image_channels
  found = classify(
    pretrained,
    [media.read_image(path, channels) for path in arguments.images],
    class_names=_class_names(arguments),
    batch_size=arguments.batch_size,
    top_k=arguments.top,
    size=arguments.size and tuple(arguments.size),
    colours=_colours(arguments),
  )
  for path, predictions in zip(arguments.images, found, strict=True):
    print(path)
    for prediction in predictions:
      print(f'  {prediction.prob:7.2%}  {prediction.name}')


def _fill_mask(arguments: argparse.Namespace) -> None:
  texts = arguments.texts
  if arguments.mask is not None:
    texts = [mask_part(text, arguments.mask) for text in texts]
  pretrained = _load(arguments.model)
  for found in fill_mask(pretrained, *texts, batch_size=arguments.batch_size):
    print(found.text)
    print('  filled:', *(repr(part) for part in found.filled))
    print('  probabilities:', *(f'{prob:.3f}' for prob in found.probs))


def _flow(arguments: argparse.Namespace) -> None:
  media.check_image_path(arguments.output)
  if arguments.array is not None:
    media.check_array_path(arguments.array)
  pretrained = _load(arguments.model)
  channels = flow_input(pretrained.config).frame_channels
  frames = [
    media.read_image(path, channels)
    for path in (arguments.frame1, arguments.frame2)
  ]
  flow = estimate_flow(pretrained, *frames, batch_size=arguments.batch_size)
  media.write_image(arguments.output, pictures.flow_picture(*frames, flow))
  print(f'{arguments.output}: motion between the frames')
  if arguments.array is not None:
    np.save(arguments.array, flow)
    print(f'{arguments.array}: the same as an array {list(flow.shape)}')


def _autoencode(arguments: argparse.Namespace) -> None:
  media.check_image_path(arguments.output)
  if arguments.reconstruction is not None:
    media.check_video_path(arguments.reconstruction)
  pretrained = _load(arguments.model)
  clips = clips_of(pretrained)
  names = checked_names(_class_names(arguments), clips.num_classes)
  video, audio, sample_rate_hz = _read_clips(arguments, clips)
  made = autoencode(
    pretrained,
    video,
    audio,
    chunk_size=arguments.chunk_size,
    batch_size=arguments.batch_size,
  )
  picture = pictures.autoencoding_picture(video, audio, made)
  media.write_image(arguments.output, picture)
  count = len(made.label_probs)
  print(f'{arguments.output}: {count} clips above their reconstructions')
  for index, probs in enumerate(made.label_probs):
    label = int(probs.argmax())
    print(f'  clip {index}: {probs[label]:.2%} {names[label]}')
  if arguments.reconstruction is not None:
    rates = _FRAME_RATE_HZ, sample_rate_hz
    media.write_video(arguments.reconstruction, made.video, made.audio, *rates)
    print(f'{arguments.reconstruction}: the reconstruction, with sound')


def _read_clips(
  arguments: argparse.Namespace, clips: Clips
) -> tuple[np.ndarray, np.ndarray, int]:
  """Returns whole clips of video and sound, and the sample rate."""
  if arguments.clips < 1:
    raise ValueError(f'clips must be at least 1, got {arguments.clips}.')
  sample_rate_hz = clips.num_samples * _FRAME_RATE_HZ // clips.num_frames
  video = media.read_video(
    arguments.video,
    clips.size,
    _FRAME_RATE_HZ,
    arguments.clips * clips.num_frames,
  )
  audio = media.read_audio(
    arguments.video, sample_rate_hz, arguments.clips * clips.num_samples
  )
  count = min(len(video) // clips.num_frames, len(audio) // clips.num_samples)
  if not count:
    raise ValueError(
      f'{arguments.video} must last for {clips.num_frames / _FRAME_RATE_HZ} s '
      f'or longer, got {len(video) / _FRAME_RATE_HZ:.2f} s of video and '
      f'{len(audio) / sample_rate_hz:.2f} s of sound.'
    )
  video = video[: count * clips.num_frames]
  return video, audio[: count * clips.num_samples], sample_rate_hz


def _attention(arguments: argparse.Namespace) -> None:
  media.check_image_path(arguments.output)
  pretrained = _load(arguments.model)
  channels = image_input(pretrained.config).image_channels
  image = media.read_image(arguments.image, channels)
  size = arguments.size and tuple(arguments.size)
  maps = image_attention(
    pretrained,
    image,
    arguments.latents,
    size=size,
    colours=_colours(arguments),
  )
  (shown,) = crop_images(pretrained.config, [image], size)
  picture = pictures.attention_picture(shown, maps, arguments.latents)
  media.write_image(arguments.output, picture)
  print(
    f'{arguments.output}: {len(maps)} cross-attends of '
    f'{len(arguments.latents)} latents'
  )


def _listen(arguments: argparse.Namespace) -> None:
  media.check_image_path(arguments.output)
  pretrained = _load(arguments.model)
  config = pretrained.config
  form = clip_format(
    config,
    sample_rate_hz=arguments.sample_rate_hz,
    frame_rate_hz=arguments.frame_rate_hz,
  )
  if arguments.latents is not None:
    check_latents(config, arguments.latents)
  recording = media.read_recording(
    arguments.recording, form, arguments.secs, arguments.crop
  )
  clips = cut(recording, form, arguments.clips)
  options = {
    'colours': _colours(arguments),
    'batch_size': arguments.batch_size,
  }
  heard = listen(
    pretrained,
    clips,
    class_names=_class_names(arguments),
    top_k=arguments.top,
    is_exclusive=arguments.exclusive,
    **options,
  )
  print(arguments.recording)
  for prediction in heard.predictions:
    print(f'  {prediction.prob:.4f}  {prediction.name}')
  for kind, name, stream in (
    ('sound', form.audio, recording.sound),
    ('video', form.video, recording.frames),
  ):
    if name and not len(stream):
      print(f'  (without {kind}, which the model takes and the file lacks)')
  maps = clip_attention(pretrained, clips, arguments.latents, **options)
  picture = pictures.listening_picture(
    _sound(config, form, recording, maps),
    _sights(form, recording, maps),
    clips.starts_secs,
    form.secs,
    {p.name: heard.clip_scores[:, p.label] for p in heard.predictions},
  )
  media.write_image(arguments.output, picture)
  print(f'{arguments.output}: {len(maps)} cross-attends over the recording')


def _sound(
  config: PerceiverConfig, form: ClipFormat, recording: Recording, maps: Maps
) -> pictures.Sound | None:
  """Returns what is drawn of sound, None if there is none."""
  if not len(recording.sound):
    return None
  log_mel, frame_secs = spectrogram(config, form, recording.sound)
  found = [of_inputs[form.audio] for of_inputs in maps]
  return pictures.Sound(log_mel, frame_secs, found)


def _sights(
  form: ClipFormat, recording: Recording, maps: Maps
) -> pictures.Sights | None:
  """Returns what is drawn of video, None if there is none."""
  if not len(recording.frames):
    return None
  found = [of_inputs[form.video] for of_inputs in maps]
  return pictures.Sights(recording.frames, form.frame_secs, found)


def _class_names(arguments: argparse.Namespace) -> list[str] | None:
  if arguments.class_names is None:
    return None
  return read_class_names(arguments.class_names)


def _colours(arguments: argparse.Namespace) -> Colours:
  return Colours(tuple(arguments.mean), tuple(arguments.std))


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m perceiver_jax.predict', description=__doc__
  )
  tasks = parser.add_subparsers(title='tasks', required=True, metavar='TASK')
  _add_image_tasks(tasks)
  task = _task(tasks, 'fill_mask', _fill_mask, 'what is missing in a text')
  task.add_argument(
    'texts', nargs='+', help='with [MASK] for each byte that is missing'
  )
  task.add_argument('--mask', help='instead: the part of each text to mask')
  task.add_argument('--batch_size', type=int, default=8, help='texts at once')
  task = _task(tasks, 'flow', _flow, 'how far each pixel moves')
  task.add_argument('frame1', help='an image')
  task.add_argument('frame2', help='the next one, of the same size')
  task.add_argument('--output', default='flow.png', help='the picture')
  task.add_argument('--array', help='a file .npy for the motion in pixels')
  task.add_argument('--batch_size', type=int, default=1, help='tiles at once')
  task = _task(tasks, 'autoencode', _autoencode, 'compress video and sound')
  task.add_argument('video', help='a file with video and sound')
  task.add_argument('--output', default='autoencode.png', help='the picture')
  task.add_argument('--reconstruction', help='a video file to write, .mp4')
  task.add_argument('--clips', type=int, default=1, help='how many at most')
  task.add_argument('--chunk_size', type=int, default=8192, help='queries')
  task.add_argument('--batch_size', type=int, default=1, help='clips at once')
  task.add_argument('--class_names', help='a file with a name on each line')
  _add_listen(tasks)
  return parser


def _add_listen(tasks: argparse._SubParsersAction) -> None:
  task = _task(tasks, 'listen', _listen, 'what is heard and seen')
  task.add_argument('recording', help='a file with sound, video, or both')
  task.add_argument(
    '--class_names',
    help='a file with a name on each line, or class_labels_indices.csv',
  )
  task.add_argument('--top', type=int, default=5, help='how many classes')
  task.add_argument('--output', default='listen.png', help='the picture')
  task.add_argument('--secs', type=float, default=10.0, help='of the beginning')
  task.add_argument('--clips', type=int, default=16, help='over these seconds')
  task.add_argument(
    '--exclusive',
    action='store_true',
    help='the model was trained to choose one class',
  )
  task.add_argument(
    '--latents', type=int, nargs='+', help='whose attention; all by default'
  )
  task.add_argument(
    '--sample_rate_hz', type=int, help='48,000, or that of the spectrogram'
  )
  task.add_argument(
    '--frame_rate_hz', type=int, default=FRAME_RATE_HZ, help='of training'
  )
  task.add_argument(
    '--crop',
    type=float,
    default=media.CROP,
    help='side of the centre of frames that is looked at, 1 for all of it',
  )
  task.add_argument('--batch_size', type=int, default=1, help='clips at once')
  _add_colours(task, MINUS_ONE_TO_ONE, 'from -1 to 1')


def _add_image_tasks(tasks: argparse._SubParsersAction) -> None:
  task = _task(tasks, 'classify', _classify, 'what is on images')
  task.add_argument('images', nargs='+', help='JPEG, PNG, ...')
  task.add_argument('--class_names', help='a file with a name on each line')
  task.add_argument('--top', type=int, default=5, help='how many')
  task.add_argument('--batch_size', type=int, default=8, help='images at once')
  _add_preparation(task)
  task = _task(tasks, 'attention', _attention, 'where a model looks')
  task.add_argument('image', help='JPEG, PNG, ...')
  task.add_argument('--output', default='attention.png', help='the picture')
  task.add_argument(
    '--latents', type=int, nargs='+', default=[0, 1, 2, 3], help='which ones'
  )
  _add_preparation(task)


def _add_preparation(task: argparse.ArgumentParser) -> None:
  task.add_argument(
    '--size', type=int, nargs=2, help='rows and columns the model sees'
  )
  _add_colours(task, IMAGENET, 'ImageNet')


def _add_colours(
  task: argparse.ArgumentParser, colours: Colours, default: str
) -> None:
  for name, values in colours._asdict().items():
    task.add_argument(
      f'--{name}',
      type=float,
      nargs='+',
      default=values,
      help=f'of colours, in [0, 1]; {default} by default',
    )


def _task(
  tasks: argparse._SubParsersAction,
  name: str,
  run: Callable[[argparse.Namespace], None],
  text: str,
) -> argparse.ArgumentParser:
  task = tasks.add_parser(name, help=text, description=text)
  task.add_argument(
    'model', help='a file of perceiver_jax.save_pretrained, or a workdir'
  )
  task.set_defaults(run=run)
  return task


if __name__ == '__main__':
  main()
