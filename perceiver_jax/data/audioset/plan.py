"""Which segments of which lists are in prepared data, so that parts can fit."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from etils import epath

from perceiver_jax.data.audioset.segments import CLASSES_FILE, list_file

_FILE = 'plan.json'


class Plan(NamedTuple):
  """What data is prepared from.

  Attributes:
    classes: a digest of the list of classes.
    lists: a digest of the list of each split.
    part: (i, n) for every n-th segment of each list from the i-th on.
  """

  classes: str
  lists: dict[str, str]
  part: tuple[int, int]

  @classmethod
  def of(
    cls, manual_dir: epath.Path, splits: Iterable[str], part: tuple[int, int]
  ) -> 'Plan':
    """Returns the plan for the lists in a directory."""
    lists = {split: _digest(manual_dir / list_file(split)) for split in splits}
    return cls(_digest(manual_dir / CLASSES_FILE), lists, part)

  @classmethod
  def load(cls, directory: str | os.PathLike[str]) -> 'Plan':
    """Reads the plan of prepared data.

    Raises:
      ValueError: there is none.
    """
    path = epath.Path(directory, _FILE)
    if not path.exists():
      raise ValueError(
        f'{path} must say which part of which lists this is, got no such file; '
        'data prepared by an older version must be prepared again.'
      )
    fields = json.loads(path.read_text())
    return cls(fields['classes'], fields['lists'], tuple(fields['part']))

  @classmethod
  def joined(cls, plans: Mapping[str, 'Plan']) -> 'Plan':
    """Returns the plan of parts together.

    Args:
      plans: those of the parts, by names for messages.

    Raises:
      ValueError: they are not all the parts of the same lists, each once.
    """
    first_name, first = next(iter(plans.items()))
    names: dict[str, str] = {}
    lists: dict[str, str] = {}
    for name, plan in plans.items():
      if plan.classes != first.classes:
        raise ValueError(
          f'{name} must be of the {CLASSES_FILE} of {first_name}, got another.'
        )
      for split, digest in plan.lists.items():
        names.setdefault(split, name)
        if lists.setdefault(split, digest) != digest:
          raise ValueError(
            f'{name} must be of the {list_file(split)} of {names[split]}, got '
            'another; parts of one list are made by --part.'
          )
    for split in lists:
      _check_whole(
        split, {name: p.part for name, p in plans.items() if split in p.lists}
      )
    return cls(first.classes, lists, (1, 1))

  def save(self, directory: epath.Path) -> None:
    """Writes it beside its data."""
    text = json.dumps(self._asdict(), indent=2)
    (directory / _FILE).write_text(f'{text}\n')


def _check_whole(split: str, parts: Mapping[str, tuple[int, int]]) -> None:
  """Raises ValueError unless there is every part of a list, but once."""
  _, count = next(iter(parts.values()))
  needed = [(number, count) for number in range(1, count + 1)]
  if sorted(parts.values()) != needed:
    got = ', '.join(f'{i}/{n} in {name}' for name, (i, n) in parts.items())
    raise ValueError(
      f'parts of {list_file(split)} must be 1/{count} to {count}/{count}, each '
      f'once, got {got}.'
    )


def _digest(path: epath.Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()
