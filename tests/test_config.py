import dataclasses
import enum
import pickle

import pytest

from perceiver_jax.config import Config, from_dict, from_json
from perceiver_jax.nn.blocks import SelfAttendConfig
from perceiver_jax.nn.repeat import Remat


class Color(enum.Enum):
  RED = enum.auto()
  BLUE = enum.auto()


class Wheel(Config):
  size: float = 1.0

  def validate(self):
    super().validate()
    if self.size <= 0:
      raise ValueError(f'size must be positive, got {self.size}.')


class SpokedWheel(Wheel):
  num_spokes: int = 32


class Bike(Config):
  name: str
  gears: int | None = None
  color: Color = Color.RED
  sizes: tuple[int, ...] = ()
  is_electric: bool = False
  front: Wheel = dataclasses.field(default_factory=Wheel)
  spare: Wheel | None = None
  extras: dict[str, Wheel] = dataclasses.field(default_factory=dict)


def test_misspelt_field_lists_the_choices():
  bike = Bike(name='a')
  with pytest.raises(AttributeError, match=r"no field 'gear'.*'gears'.*mean"):
    bike.gear = 3
  with pytest.raises(AttributeError, match="no field 'colour'.*'color'"):
    Bike(name='a', colour=Color.RED)


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('name', 3),
    ('gears', 2.0),
    ('gears', True),
    ('color', 'RED'),
    ('sizes', (1, 'two')),
    ('sizes', 3),
    ('is_electric', 1),
    ('front', None),
    ('front', Bike),
    ('extras', {'bell': 3}),
  ],
)
def test_value_of_a_wrong_type_is_refused(field, value):
  bike = Bike(name='a')
  with pytest.raises(TypeError, match=rf'Bike\.{field}.* must be .*got'):
    setattr(bike, field, value)


def test_int_becomes_float_and_list_becomes_tuple():
  bike = Bike(name='a', sizes=[1, 2], front=Wheel(size=2))
  assert bike.sizes == (1, 2)
  assert type(bike.front.size) is float


def test_fields_that_default_to_none_can_be_set():
  bike = Bike(name='a')
  bike.gears = 8
  bike.spare = SpokedWheel()
  assert (bike.gears, bike.spare.num_spokes) == (8, 32)


def test_frozen_config_and_its_children_cannot_change():
  bike = Bike(name='a', extras={'bell': Wheel()}).freeze()
  for config, field, value in [
    (bike, 'name', 'b'),
    (bike.front, 'size', 2.0),
    (bike.extras['bell'], 'size', 2.0),
  ]:
    with pytest.raises(AttributeError, match='frozen'):
      setattr(config, field, value)
  with pytest.raises(TypeError):
    bike.extras['horn'] = Wheel()
  with pytest.raises(AttributeError, match='deleted'):
    del bike.name


def test_copy_of_a_frozen_config_can_change_alone():
  bike = Bike(name='a', spare=SpokedWheel(num_spokes=3)).freeze()
  copy = bike.copy()
  assert copy == bike
  copy.spare.num_spokes = 4
  assert bike.spare.num_spokes == 3


def test_json_round_trip_keeps_classes_and_values():
  bike = Bike(
    name='a',
    gears=3,
    color=Color.BLUE,
    sizes=(1, 2),
    front=SpokedWheel(size=0.1, num_spokes=5),
    extras={'bell': Wheel(size=3)},
  )
  restored = from_json(bike.to_json())
  assert restored == bike
  assert type(restored.front) is SpokedWheel
  assert restored.color is Color.BLUE


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('{"class": "Bike", "name": "a", "gear": 3}', "no field 'gear'"),
    ('{"class": "os.system"}', 'must be one of the imported Config'),
    ('{"class": "Config"}', 'must be one of the imported Config'),
    ('{"name": "a"}', "must be an object with a 'class'"),
    ('__import__("os")', 'must be JSON'),
  ],
)
def test_json_that_describes_no_config_is_refused(text, message):
  with pytest.raises(ValueError, match=message):
    from_json(text)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ('"name": "a", "color": "GREEN"', r'Bike\.color must be Color'),
    ('"name": "a", "color": {"RED": 1}', r'Bike\.color must be Color'),
    ('"name": ["a"]', r'Bike\.name must be str'),
    ('"name": {"a": 1}', r'Bike\.name must be str'),
  ],
)
def test_json_with_a_wrong_type_is_refused(fields, message):
  with pytest.raises(TypeError, match=message):
    from_json(f'{{"class": "Bike", {fields}}}')


def test_validate_reaches_nested_configs():
  bike = Bike(name='a', extras={'bell': SpokedWheel(size=-1.0)})
  with pytest.raises(ValueError, match='size must be positive, got -1.0'):
    bike.validate()


def test_leaves_are_every_value_with_its_path():
  bike = Bike(name='a', spare=SpokedWheel(), extras={'bell': Wheel(size=3.0)})
  assert dict(bike.leaves()) == {
    'name': 'a',
    'gears': None,
    'color': Color.RED,
    'sizes': (),
    'is_electric': False,
    'front.size': 1.0,
    'spare.size': 1.0,
    'spare.num_spokes': 32,
    'extras.bell.size': 3.0,
  }


class Shop(Config):
  prices: dict[str, float] = dataclasses.field(default_factory=dict)


@pytest.mark.parametrize('travels', [
  lambda shop: shop,
  Config.copy,
  lambda shop: pickle.loads(pickle.dumps(shop)),
  lambda shop: from_json(shop.to_json()),
])  # fmt: skip
def test_items_of_a_dict_are_fields_of_their_own(travels):
  shop = travels(Shop(prices={'bell': 3}))
  assert dict(shop.leaves()) == {'prices.bell': 3.0}
  with pytest.raises(TypeError, match=r"Shop.prices\['bell'\] must be float"):
    shop.prices['bell'] = None
  shop.prices['horn'] = 4
  assert shop.prices == {'bell': 3.0, 'horn': 4.0}
  assert type(shop.prices['horn']) is float


@pytest.mark.parametrize(
  ('saved', 'remat'), [(True, Remat.ALL), (False, Remat.NONE)]
)
def test_saved_switch_of_remat_is_read(saved, remat):
  block = SelfAttendConfig(remat=Remat.CHEAP)
  loaded = from_dict(block.to_dict() | {'remat': saved})
  assert loaded.remat is remat
