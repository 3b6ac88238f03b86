"""Tables that give every array of a model its name in files of others."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax

from perceiver_jax.weights import flat


class Row(NamedTuple):
  """One line of a table.

  Attributes:
    theirs: their name of a module, or of an array as `module/array`.
    ours: our name of it, without `params/` or `state/`.
    unit_axes: how many axes of size 1 their array has and ours lacks.
  """

  theirs: str
  ours: str
  unit_axes: int = 0


class Pair(NamedTuple):
  """The same array on both sides.

  Attributes:
    theirs: their key.
    ours: our key; see `flat`.
    array: shape and dtype of ours.
    shape: of theirs.
    axes: the axes of ours in the order of theirs; what then differs between
      the shapes are axes of size 1.
  """

  theirs: str
  ours: str
  array: jax.ShapeDtypeStruct
  shape: tuple[int, ...]
  axes: tuple[int, ...]


Publish = Callable[
  [str, jax.ShapeDtypeStruct, Row], tuple[str, tuple[int, ...], tuple[int, ...]]
]


def pairs(
  arrays: Mapping[str, jax.ShapeDtypeStruct],
  rows: Iterable[Row],
  publish: Publish,
) -> list[Pair]:
  """Looks up the place of every array of a model in files of others.

  Args:
    arrays: those of the model, by our keys.
    rows: the table. A row that the model has no use for does no harm.
    publish: returns `theirs`, `shape` and `axes` of a `Pair`.

  Raises:
    ValueError: arrays have no row; the message lists them.
  """
  by_name = {row.ours: row for row in rows}
  found, unnamed = [], []
  for key, array in arrays.items():
    _, name = key.split('/', 1)
    row = by_name.get(name, by_name.get(name.rsplit('/', 1)[0]))
    if row is None:
      unnamed.append(name)
      continue
    theirs, shape, axes = publish(key, array, row)
    found.append(Pair(theirs, key, array, shape, axes))
  if unnamed:
    raise ValueError(
      'config must describe a model whose parameters all have published '
      f'names, got {len(unnamed)} that have none: {", ".join(unnamed)}.'
    )
  return found


def to_ours(
  subject: str, arrays: Mapping[str, Any], found: list[Pair]
) -> dict[str, Any]:
  """Returns their arrays under our keys, in our shapes.

  Raises:
    ValueError: they are not exactly those of the pairs; see `flat.check`.
  """
  flat.check(
    subject,
    arrays,
    {p.theirs: jax.ShapeDtypeStruct(p.shape, p.array.dtype) for p in found},
  )
  return {
    p.ours: arrays[p.theirs]
    .reshape([p.array.shape[axis] for axis in p.axes])
    .transpose([p.axes.index(axis) for axis in range(len(p.axes))])
    for p in found
  }


def to_theirs(
  subject: str, arrays: Mapping[str, Any], found: list[Pair]
) -> dict[str, Any]:
  """Returns our arrays under their keys; the inverse of `to_ours`."""
  flat.check(subject, arrays, {p.ours: p.array for p in found})
  return {
    p.theirs: arrays[p.ours].transpose(p.axes).reshape(p.shape) for p in found
  }
