"""Numbers of a run by step: written as JSON lines and for TensorBoard."""

import json
import math
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorboardX
from absl import logging
from etils import epath

from perceiver_jax.buckets import make_directory, replace_text
from perceiver_jax.training.histograms import Histogram
from perceiver_jax.training.lasting_files import LineFile, lasting

METRICS_FILE = 'metrics.jsonl'
_RESERVED = ('step', 'split')


class MetricWriter:
  """Writes metrics to `WORKDIR/metrics.jsonl` and for TensorBoard beside it.

  A line of the file is one JSON object: `step`, `split`, then the metrics by
  name. It is on disk when `write` returns, in a bucket when `flush` does; if it
  cannot be written, that is reported, and the line written later. JSON has no
  number for NaN and infinities: they are the strings `NaN`, `Infinity` and
  `-Infinity`, which `read_metrics` turns back. TensorBoard shows a metric as
  `SPLIT/NAME`.

  A run that goes on from a checkpoint repeats the steps after it. What their
  first writing left is forgotten at the start, a last line cut off by a kill
  as well, so that the file becomes that of a run never interrupted. Lines that
  were damaged are reported and left out, and the file with them is kept as
  `metrics.jsonl.damaged`.

  A context manager. In a run of many processes only the first one writes: the
  others give `is_primary=False`, and each call does nothing.

  Args:
    workdir: the directory of the run; made if it does not exist.
    resume_step: the step of the checkpoint that the run goes on from; None for
      a run that starts anew, which forgets everything.
    repeated_split: the split of which the line of `resume_step` is forgotten
      too, since it will be written again; None: there is none.
    is_primary: whether to write at all.
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    *,
    resume_step: int | None = None,
    repeated_split: str | None = None,
    is_primary: bool = True,
  ) -> None:
    self._is_primary = is_primary
    if not is_primary:
      return
    workdir = epath.Path(workdir)
    make_directory(workdir)
    path = workdir / METRICS_FILE
    _forget_after(path, resume_step, repeated_split)
    self._file = LineFile(path)
    self._summary_writer = tensorboardX.SummaryWriter(
      lasting(workdir),
      purge_step=0 if resume_step is None else resume_step + 1,
      # Its name has the second alone, in which a run may start twice.
      filename_suffix=f'.{time.time_ns()}',
    )

  def __enter__(self) -> 'MetricWriter':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def write(self, step: int, split: str, metrics: Mapping[str, Any]) -> None:
    """Writes one line of metrics.

    Args:
      step: updates done so far.
      split: what was measured, such as `train` or `test`.
      metrics: scalars by name, Python's, NumPy's or JAX's.

    Raises:
      ValueError: a metric is called `step` or `split`, or is no scalar.
    """
    if not self._is_primary:
      return
    scalars = {name: _scalar(name, value) for name, value in metrics.items()}
    self._file.add(json_line({'step': step, 'split': split} | scalars))
    for name, value in scalars.items():
      if math.isfinite(value):  # TensorBoard cannot draw the others.
        self._summary_writer.add_scalar(f'{split}/{name}', value, step)

  def write_histograms(
    self, step: int, histograms: Mapping[str, Histogram]
  ) -> None:
    """Writes histograms for TensorBoard, but those of no finite number.

    Args:
      step: updates done so far.
      histograms: by name, on the host.
    """
    if not self._is_primary:
      return
    for name, histogram in histograms.items():
      count = int(histogram.counts.sum())
      limits, counts = histogram.edges[1:], histogram.counts
      if histogram.edges[0] == histogram.edges[-1]:
        # Bins of no width could not be drawn.
        limits, counts = histogram.edges[-1:] + 0.5, counts.sum(keepdims=True)
      if count:
        self._summary_writer.add_histogram_raw(
          name,
          min=float(histogram.edges[0]),
          max=float(histogram.edges[-1]),
          num=count,
          sum=float(histogram.total),
          sum_squares=float(histogram.squares),
          bucket_limits=limits.tolist(),
          bucket_counts=counts.tolist(),
          global_step=step,
        )

  def write_pictures(
    self, step: int, split: str, pictures: Mapping[str, np.ndarray]
  ) -> None:
    """Writes pictures for TensorBoard, which shows them as `SPLIT/NAME`.

    Args:
      step: updates done so far.
      split: what was evaluated.
      pictures: uint8 [height, width, 3] by name.
    """
    if not self._is_primary:
      return
    for name, picture in pictures.items():
      self._summary_writer.add_image(
        f'{split}/{name}', picture, step, dataformats='HWC'
      )

  def flush(self) -> None:
    """Writes the lines of `metrics.jsonl` that have not been written yet."""
    if self._is_primary:
      self._file.flush()

  def close(self) -> None:
    """Ends the writing."""
    if self._is_primary:
      self._file.close()
      self._summary_writer.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Returns the lines that a `MetricWriter` wrote.

  A line that a kill has cut off at the end is left out.

  Args:
    path: the file, `WORKDIR/metrics.jsonl`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a line before the last is damaged.
  """
  lines, damaged = _lines(epath.Path(path))
  for number, text in damaged.items():
    raise ValueError(
      f'every line of {path} must be a JSON object with step and split, got '
      f'{text!r} in line {number}.'
    )
  return lines


def _forget_after(
  path: epath.Path, step: int | None, split: str | None
) -> None:
  """Takes the lines after a step, or all, and damaged ones from a file.

  The line of the step itself too, that is of the split.
  """
  if not path.exists():
    return
  lines, damaged = ([], {}) if step is None else _lines(path)
  kept = [
    line
    for line in lines
    if line['step'] < step or (line['step'] == step and line['split'] != split)
  ]
  if damaged:
    aside = path.with_name(f'{path.name}.damaged')
    path.copy(aside, overwrite=True)
    logging.error(
      '%s is damaged: %d lines are left out, the first of them line %d; as it '
      'was, it is now %s.',
      path,
      len(damaged),
      min(damaged),
      aside.name,
    )
  replace_text(path, ''.join(map(json_line, kept)))


def _lines(
  path: epath.Path,
) -> tuple[list[dict[str, Any]], dict[int, bytes]]:
  """Returns the lines of a file, and by their number those that are none."""
  *complete, _ = path.read_bytes().split(b'\n')
  lines, damaged = [], {}
  for number, text in enumerate(complete, start=1):
    try:
      lines.append(_line(text))
    except (ValueError, TypeError):
      damaged[number] = text
  return lines, damaged


def _line(text: bytes) -> dict[str, Any]:
  """Returns what `json_line` was given; raises what another line leads to."""
  line = json.loads(text.decode())
  if not isinstance(line, dict) or not (
    isinstance(line.get('step'), int) and isinstance(line.get('split'), str)
  ):
    raise ValueError(f'a line must have a step and a split, got {line!r}.')
  return {
    name: value if name in _RESERVED else float(value)
    for name, value in line.items()
  }


def json_line(line: Mapping[str, Any]) -> str:
  """Returns strict JSON with a line break; see `MetricWriter` for NaN."""
  values = {
    name: _name_of(value)
    if isinstance(value, float) and not math.isfinite(value)
    else value
    for name, value in line.items()
  }
  return json.dumps(values, allow_nan=False) + '\n'


def _name_of(value: float) -> str:
  if math.isnan(value):
    return 'NaN'
  return 'Infinity' if value > 0 else '-Infinity'


def _scalar(name: str, value: Any) -> float:
  if name in _RESERVED:
    raise ValueError(
      f'a metric must not be called one of {list(_RESERVED)}, got {name!r}.'
    )
  try:
    return float(value)
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'the metric {name} must be a scalar, got {value!r}.'
    ) from error
