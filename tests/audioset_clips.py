"""Makes a small AudioSet: official lists, and clips by FFmpeg."""

import pathlib
import subprocess

from perceiver_jax import ffmpeg

CLASSES = {
  '/m/09x0r': 'Speech',
  '/m/04rlf': 'Music',
  '/m/0838f': 'Water',
  '/t/dd00003': 'Male speech, man speaking',
}
_HEADER = """\
# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids={0}, num_segs={0}, num_unique_labels=4, num_positive_labels={0}
# YTID, start_seconds, end_seconds, positive_labels
"""


def write_classes(manual_dir: pathlib.Path) -> None:
  """Writes the list of classes, as it is published."""
  lines = ['index,mid,display_name']
  for index, (mid, name) in enumerate(CLASSES.items()):
    lines.append(f'{index},{mid},"{name}"')
  text = '\n'.join(lines)
  manual_dir.mkdir(parents=True, exist_ok=True)
  (manual_dir / 'class_labels_indices.csv').write_text(f'{text}\n')


def write_list(
  manual_dir: pathlib.Path,
  split: str,
  segments: list[tuple[str, float, float, list[int]]],
) -> None:
  """Writes the list of a split, as it is published.

  Args:
    manual_dir: where to.
    split: such as 'eval'.
    segments: video id, start and end in seconds, indices of labels.
  """
  mids = list(CLASSES)
  text = _HEADER.format(len(segments))
  for video_id, start, end, labels in segments:
    joined = ','.join(mids[label] for label in labels)
    text += f'{video_id}, {start:.3f}, {end:.3f}, "{joined}"\n'
  (manual_dir / f'{split}_segments.csv').write_text(text)


def make_clip(
  path: pathlib.Path,
  *,
  secs: float = 2.0,
  hz: float | None = 440,
  size: tuple[int, int] | None = (48, 32),
  sample_rate_hz: int = 48_000,
  num_channels: int = 1,
  frame_rate_hz: int = 25,
  colour: str | None = None,
) -> None:
  """Makes a file with a tone, moving pictures, or both.

  Args:
    path: of the file; its ending names the format.
    secs: how long.
    hz: pitch of the tone, 0 for silence, None for no sound at all.
    size: width and height of the pictures, None for none.
    sample_rate_hz: of the tone.
    num_channels: of the tone.
    frame_rate_hz: of the pictures.
    colour: of all pictures, as FFmpeg names it; None for a pattern that moves.
  """
  arguments: list[object] = []
  if size is not None:
    picture = f'color=c={colour}:' if colour else 'testsrc='
    picture += f'size={size[0]}x{size[1]}:rate={frame_rate_hz}'
    arguments += ['-f', 'lavfi', '-t', secs, '-i', picture]
  if hz is not None:
    # Half of full scale.
    channels = '|'.join([f'0.5*sin(2*PI*{hz}*t)'] * num_channels)
    tone = f'aevalsrc={channels}:s={sample_rate_hz}'
    arguments += ['-f', 'lavfi', '-t', secs, '-i', tone]
  path.parent.mkdir(parents=True, exist_ok=True)
  command = [ffmpeg.executable(), '-v', 'error', '-y', *arguments]
  if size is not None and path.suffix != '.webm':
    command += ['-pix_fmt', 'yuv420p', '-preset', 'ultrafast']
  if path.suffix == '.webm':
    command += ['-deadline', 'realtime']
  subprocess.run([*map(str, command), str(path)], check=True)
