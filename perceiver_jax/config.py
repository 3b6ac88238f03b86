"""The base class of every description in this package.

A `Config` is a plain dataclass that is hard to misuse: a misspelt field or a
value of the wrong type is an error where it is written, `freeze()` makes it
immutable, and it travels through JSON without executing anything.

This file needs the standard library only.
"""

import dataclasses
import difflib
import enum
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Self

_CLASS_KEY = 'class'


class _ConfigType(type):
  """Refuses unknown fields as `Config` does, when a config is made."""

  def __call__(cls, **fields: Any) -> Any:
    for name in fields:
      if name not in _annotations(cls):
        raise AttributeError(unknown_field(cls, name))
    return super().__call__(**fields)


@typing.dataclass_transform(kw_only_default=True)
class Config(metaclass=_ConfigType):
  """A typed, typo-proof description; subclasses become dataclasses.

  Fields are annotated with `int`, `float`, `bool`, `str`, an `enum.Enum`,
  another `Config`, `tuple[...]`, `dict[str, ...]` of these, or a union.
  An `int` given for a `float` becomes one, a `list` for a `tuple` too.
  Annotations must be real types, so a module that defines configs may not use
  `from __future__ import annotations`.
  """

  def __init_subclass__(cls, **kwargs: Any) -> None:
    super().__init_subclass__(**kwargs)
    dataclasses.dataclass(kw_only=True)(cls)

  def __setattr__(self, name: str, value: Any) -> None:
    annotation = _annotations(type(self)).get(name)
    if annotation is None:
      raise AttributeError(unknown_field(type(self), name))
    if '_frozen' in self.__dict__:
      raise AttributeError(
        f'{type(self).__name__} is frozen: {name} must be set before freeze(), '
        f'got {value!r}.'
      )
    self.__dict__[name] = _checked(
      annotation, value, f'{type(self).__name__}.{name}'
    )

  def __delattr__(self, name: str) -> None:
    raise AttributeError(f'{type(self).__name__}.{name} must not be deleted.')

  def validate(self) -> None:
    """Checks the rules that span fields, here and in every nested config.

    Subclasses extend it: `super().validate()`, then their own rules.

    Raises:
      ValueError: a rule is broken; the message names field, rule and value.
    """
    for child in self._children():
      child.validate()

  def freeze(self) -> Self:
    """Makes this config and every nested one immutable; returns itself."""
    for child in self._children():
      child.freeze()
    for name, value in self.__dict__.items():
      if isinstance(value, dict):
        self.__dict__[name] = types.MappingProxyType(value)
    self.__dict__['_frozen'] = True
    return self

  def copy(self) -> Self:
    """Returns a deep copy that can be changed, even of a frozen config."""
    names = _annotations(type(self))
    return type(self)(**{name: _copied(getattr(self, name)) for name in names})

  def to_dict(self) -> dict[str, Any]:
    """Returns nested plain dicts, each naming its class under 'class'."""
    fields = {
      name: _encoded(getattr(self, name)) for name in _annotations(type(self))
    }
    return {_CLASS_KEY: type(self).__name__} | fields

  def to_json(self) -> str:
    """Returns the JSON text that `from_json` reads back."""
    return json.dumps(self.to_dict(), indent=2)

  def leaves(self, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yields `(dotted path, value)` of every field that takes no config.

    An item of a dict is a field of its own, under its key.
    """
    for name, annotation in _annotations(type(self)).items():
      value = getattr(self, name)
      if isinstance(value, Config):
        yield from value.leaves(f'{prefix}{name}.')
      elif isinstance(value, Mapping):
        for key, item in value.items():
          if isinstance(item, Config):
            yield from item.leaves(f'{prefix}{name}.{key}.')
          else:
            yield f'{prefix}{name}.{key}', item
      elif not _takes_configs(annotation):
        yield prefix + name, value

  def _validate_at_least(self, least: float, *names: str) -> None:
    """Checks numbers, or each of a tuple; those that are None pass.

    Args:
      least: the least that is allowed; infinity is not.
      *names: of the fields.

    Raises:
      ValueError: a number is too small, infinite or NaN.
    """
    for name in names:
      value = getattr(self, name)
      numbers = value if isinstance(value, tuple) else (value,)
      if not all(n is None or least <= n < math.inf for n in numbers):
        rule = 'finite' if math.inf in numbers else f'at least {least}'
        raise ValueError(f'{name} must be {rule}, got {value}.')

  def _children(self) -> Iterator['Config']:
    for name in _annotations(type(self)):
      yield from _configs_in(getattr(self, name))


def from_json(text: str) -> Any:
  """Returns the config that `Config.to_json` wrote.

  Classes are looked up by name among the subclasses of `Config` that have been
  imported; nothing is evaluated. A field that the text lacks takes its default.

  Args:
    text: a JSON object with a 'class' key at every level.

  Raises:
    ValueError: the text is not JSON, names an unknown or ambiguous class, or
      has a field that the class lacks.
    TypeError: a field has a value of the wrong type.
  """
  try:
    data = json.loads(text)
  except json.JSONDecodeError as error:
    raise ValueError(f'a config must be JSON, got {error}.') from error
  return from_dict(data)


def from_dict(data: Mapping[str, Any]) -> Any:
  """Returns the config that `Config.to_dict` described; see `from_json`."""
  if not isinstance(data, Mapping) or _CLASS_KEY not in data:
    raise ValueError(f"a config must be an object with a 'class', got {data!r}")
  cls = _class_named(data[_CLASS_KEY])
  annotations = _annotations(cls)
  fields = {name: value for name, value in data.items() if name != _CLASS_KEY}
  for name in fields:
    if name not in annotations:
      raise ValueError(unknown_field(cls, name))
  return cls(
    **{k: _decoded(annotations[k], value) for k, value in fields.items()}
  )


def _annotations(cls: type[Config]) -> dict[str, Any]:
  return {field.name: field.type for field in dataclasses.fields(cls)}


def unknown_field(cls: type[Config], name: str) -> str:
  """Returns what to say to someone who asked `cls` for a field `name`."""
  choices = sorted(_annotations(cls))
  close = difflib.get_close_matches(name, choices, n=1)
  hint = f' Did you mean {close[0]!r}?' if close else ''
  return (
    f'{cls.__name__} has no field {name!r}; its fields are {choices}.{hint}'
  )


def subclasses(cls: type) -> Iterator[type]:
  """Yields the imported classes below a class."""
  for subclass in cls.__subclasses__():
    yield subclass
    yield from subclasses(subclass)


def _class_named(name: Any) -> type[Config]:
  matches = {c for c in subclasses(Config) if c.__name__ == name}
  if len(matches) != 1:
    known = sorted({c.__name__ for c in subclasses(Config)})
    problem = 'names several' if matches else 'must be one of the imported'
    raise ValueError(
      f'the class of a config {problem} Config subclasses, got {name!r}; '
      f'known: {known}.'
    )
  return matches.pop()


def _configs_in(value: Any) -> Iterator[Config]:
  if isinstance(value, Config):
    yield value
  elif isinstance(value, tuple):
    for item in value:
      yield from _configs_in(item)
  elif isinstance(value, Mapping):
    yield from _configs_in(tuple(value.values()))


def _copied(value: Any) -> Any:
  if isinstance(value, Config):
    return value.copy()
  if isinstance(value, tuple):
    return tuple(map(_copied, value))
  if isinstance(value, Mapping):
    return {key: _copied(item) for key, item in value.items()}
  return value


def _encoded(value: Any) -> Any:
  if isinstance(value, Config):
    return value.to_dict()
  if isinstance(value, enum.Enum):
    return value.name
  if isinstance(value, tuple):
    return [_encoded(item) for item in value]
  if isinstance(value, Mapping):
    return {key: _encoded(item) for key, item in value.items()}
  return value


def _decoded(annotation: Any, value: Any) -> Any:
  """Turns JSON values back into configs and enum members."""
  options = _options(annotation)
  if isinstance(value, dict):
    if _CLASS_KEY in value:
      return from_dict(value)
    items = [typing.get_args(o)[1] for o in options if _is(o, dict)]
    # Where no dict or list belongs, the field itself refuses it.
    if items:
      return {key: _decoded(items[0], entry) for key, entry in value.items()}
  if isinstance(value, list):
    items = [typing.get_args(o)[0] for o in options if _is(o, tuple)]
    if items:
      return tuple(_decoded(items[0], entry) for entry in value)
  for option in options:
    is_enum = isinstance(option, type) and issubclass(option, enum.Enum)
    if is_enum and isinstance(value, str) and value in option.__members__:
      return option[value]
    if isinstance(value, bool) and hasattr(option, 'of_bool'):
      return option.of_bool(value)  # The field was a switch before.
  return value


def _options(annotation: Any) -> tuple[Any, ...]:
  if typing.get_origin(annotation) in (typing.Union, types.UnionType):
    return typing.get_args(annotation)
  return (annotation,)


def _takes_configs(annotation: Any) -> bool:
  if isinstance(annotation, type) and issubclass(annotation, Config):
    return True
  return any(map(_takes_configs, typing.get_args(annotation)))


def _is(annotation: Any, origin: type) -> bool:
  return typing.get_origin(annotation) is origin


def _checked(annotation: Any, value: Any, subject: str) -> Any:
  """Returns `value`, converted if need be, or raises TypeError."""
  for option in _options(annotation):
    if _is(option, tuple) and isinstance(value, tuple | list):
      return _checked_tuple(option, tuple(value), subject)
    if _is(option, dict) and isinstance(value, Mapping):
      return _Items(typing.get_args(option)[1], dict(value), subject)
    if option is float and type(value) in (int, float):
      return float(value)
    if option is types.NoneType and value is None:
      return None
    if option in (int, bool, str) and type(value) is option:
      return value
    if (
      isinstance(option, type)
      and issubclass(option, Config | enum.Enum)
      and isinstance(value, option)
    ):
      return value
  raise TypeError(
    f'{subject} must be {_spelled(annotation)}, got {value!r} of type '
    f'{type(value).__name__}.'
  )


class _Items(dict):
  """The value of a dict field, whose items are checked where they are set.

  Args:
    annotation: of an item.
    items: to begin with.
    subject: the field, for messages.
  """

  def __init__(self, annotation: Any, items: dict[str, Any], subject: str):
    self._annotation, self._subject = annotation, subject
    for key, value in items.items():
      self[key] = value

  def __setitem__(self, key: str, value: Any) -> None:
    subject = f'{self._subject}[{key!r}]'
    super().__setitem__(key, _checked(self._annotation, value, subject))

  def __reduce__(self) -> tuple[Any, ...]:
    return _Items, (self._annotation, dict(self), self._subject)


def _checked_tuple(annotation: Any, value: tuple, subject: str) -> tuple:
  items = typing.get_args(annotation)
  if items[-1] is ...:
    items = (items[0],) * len(value)
  if len(items) != len(value):
    raise TypeError(f'{subject} must have {len(items)} items, got {value!r}.')
  return tuple(
    _checked(item, entry, f'{subject}[{index}]')
    for index, (item, entry) in enumerate(zip(items, value, strict=True))
  )


def _spelled(annotation: Any) -> str:
  names = []
  for option in _options(annotation):
    if option is types.NoneType:
      names.append('None')
    elif isinstance(option, type) and issubclass(option, enum.Enum):
      names.append(f'{option.__name__}.{{{"|".join(option.__members__)}}}')
    else:
      names.append(getattr(option, '__name__', str(option)))
  return ' or '.join(names)
