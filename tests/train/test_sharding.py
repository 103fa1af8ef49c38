"""Where arrays live, and that it does not change what is computed.

The parts that need eight devices run in one child process, by `main` below.
"""

import json

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from configs.xvit_motion import get_config
from tests import on_devices, oracles
from vidjax.train.run import build
from vidjax.train.sharding import (
  AXES,
  batch_sharding,
  check_batch,
  input_sharding,
  make_mesh,
  parameter_spec,
  state_shardings,
)

QKV = "blocks/0/attention/qkv/kernel"
DIM, BATCH, STEPS = 32, 8, 3


def page(data: int = -1, fsdp: int = 1):
  config = get_config("smoke")
  config.model.update({"dim": DIM, "depth": 2})
  config.mesh.update({"data": data, "fsdp": fsdp})
  config.train.update({"ema_decay": 0.9, "mixup_alpha": 0.4})
  config.model.dropout_rate = 0.5
  return config


def train(data: int, fsdp: int) -> dict:
  """Losses of three steps, and the share of each array that a device has."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "jit", oracles.jit)
    run = build(page(data, fsdp), total_steps=10, steps_per_epoch=5)
  state = run.init(jax.random.key(0))
  shards = {"init": shard_shapes(state)}
  losses = []
  for step in range(STEPS):
    state, metrics = run.train_step(state, batch(step))
    losses.append(float(metrics["loss"]))
    shards.setdefault("step", shard_shapes(state))
  return {"losses": losses, "shards": shards}


def batch(seed: int):
  rng = np.random.default_rng(seed)
  return {
    "video": rng.integers(0, 256, (BATCH, 4, 32, 32, 3)).astype(np.uint8),
    "label": rng.integers(0, 12, BATCH).astype(np.int32),
    "erase": np.zeros((BATCH, 4), np.int32),
    "weight": np.array([1, 1, 0, 1, 1, 1, 1, 0], np.float32),
  }


def shard_shapes(state) -> dict[str, list[int]]:
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): list(
      leaf.addressable_shards[0].data.shape
    )
    for path, leaf in jax.tree.leaves_with_path(state)
  }


def sentence(function, *arguments) -> str:
  with pytest.raises(ValueError, match=r"\w") as caught:
    function(*arguments)
  return str(caught.value)


def main() -> None:
  """Prints what eight devices do."""
  odd = page(8)
  odd.data.batch_size = 12
  found = {
    "fsdp": train(2, 4),
    "data": train(8, 1),
    "meshes": [dict(make_mesh(*sizes).shape) for sizes in ((), (-1, 4))],
    "three": sentence(make_mesh, -1, 3),
    "few": sentence(make_mesh, 2, 2),
    "batch": sentence(build, odd, 10, 5),
    "rows": [
      device.id
      for device in make_mesh(2, 4).devices.flat
      for rows in [
        batch_sharding(make_mesh(2, 4)).devices_indices_map((16,))[device]
      ]
      if rows == (slice(2 * device.id, 2 * device.id + 2, None),)
    ],
  }
  print(json.dumps(found))


@pytest.fixture(scope="module")
def eight(compile_cache) -> dict:
  return on_devices.results(__name__, compile_cache)


def test_devices_do_not_change_the_losses(eight):
  alone = train(1, 1)["losses"]
  assert len(set(alone)) == STEPS
  for mesh in ("data", "fsdp"):
    np.testing.assert_allclose(eight[mesh]["losses"], alone, rtol=1e-5)


@pytest.mark.parametrize("when", ["init", "step"])
@pytest.mark.parametrize(
  "tree", ["params", "ema", "opt_state/adam/mu", "opt_state/adam/nu"]
)
def test_parameters_and_all_that_follows_them_are_split(when, tree, eight):
  whole, split = (eight[mesh]["shards"][when] for mesh in ("data", "fsdp"))
  expected = {
    QKV: [DIM // 4, 3 * DIM],
    "blocks/1/mlp/fc1/kernel": [DIM // 4, 4 * DIM],
    "blocks/1/mlp/fc2/kernel": [4 * DIM, DIM // 4],
    "blocks/0/attention/proj/kernel": [DIM, DIM // 4],
    "position": [5, DIM // 4],
    "blocks/0/attention/qkv/bias": [3 * DIM],
  }
  for path, shape in expected.items():
    assert split[f"{tree}/{path}"] == shape, path
  assert whole[f"{tree}/{QKV}"] == [DIM, 3 * DIM]


def test_a_step_keeps_every_sharding(eight):
  for mesh in ("data", "fsdp"):
    shards = eight[mesh]["shards"]
    assert shards["init"] == shards["step"]


def test_eight_devices_say_what_does_not_fit(eight):
  assert eight["meshes"] == [
    {"data": 8, "fsdp": 1, "frames": 1, "tensor": 1},
    {"data": 2, "fsdp": 4, "frames": 1, "tensor": 1},
  ]
  assert "data=2 x fsdp=3 x frames=1 x tensor=1 does not" in eight["three"]
  assert "data=2 x fsdp=2 x frames=1 x tensor=1 does not" in eight["few"]
  assert eight["batch"] == (
    "data.batch_size=12 does not divide over 8 devices (mesh.data x "
    "mesh.fsdp); use a multiple"
  )


def test_clips_are_split_over_all_axes_in_order(eight):
  assert eight["rows"] == list(range(8))


@pytest.mark.parametrize(
  ("data", "fsdp"),
  [(2, 1), (1, 2), (-1, 2), (0, 1), (-1, 0), (-1, -1), (-2, 1)],
)
def test_a_mesh_that_does_not_fit(data, fsdp):
  said = sentence(make_mesh, data, fsdp)
  assert f" x fsdp={fsdp} x frames=1 x tensor=1 does not fit 1 devices" in said


@pytest.mark.parametrize("axis", ["frames", "tensor"])
@pytest.mark.parametrize("size", [0, 2, -1])
def test_an_axis_that_does_not_fit(axis, size):
  with pytest.raises(ValueError, match=f"{axis}={size}.* does not fit 1 dev"):
    make_mesh(**{axis: size})


def mesh(*sizes: int) -> Mesh:
  """A mesh to ask for partitions only: one device stands for all."""
  sizes += (1,) * (len(AXES) - len(sizes))
  return Mesh(np.full(sizes, jax.devices()[0]), AXES)


@pytest.mark.parametrize(
  ("path", "shape", "expected"),
  [
    (QKV, (32, 96), ("fsdp", None)),
    (f"params/{QKV}", (32, 96), ("fsdp", None)),
    (f"opt_state/adam/mu/{QKV}", (32, 96), ("fsdp", None)),
    (f"opt_state/momentum/trace/{QKV}", (32, 96), ("fsdp", None)),
    (f"ema/{QKV}", (32, 96), ("fsdp", None)),
    ("blocks/0/mlp/fc1/kernel", (32, 128), ("fsdp", None)),
    ("blocks/0/mlp/fc2/kernel", (128, 32), (None, "fsdp")),
    ("blocks/0/attention/proj/kernel", (32, 32), (None, "fsdp")),
    ("position", (5, 32), (None, "fsdp")),
    ("temporal_position", (8, 32), (None, "fsdp")),
    ("patch_embed/proj/kernel", (96, 32), (None, "fsdp")),
    ("head/fc/kernel", (32, 12), ("fsdp", None)),
    ("head/fc2/kernel", (32, 12), ("fsdp", None)),
    ("head/fc1/kernel", (32, 32), ("fsdp", None)),
    ("stages/0/blocks/1/bias/table", (31, 13, 13, 4), (None,) * 4),
    ("ema/stages/0/merge/reduction/kernel", (128, 64), (None, "fsdp")),
    ("stages/1/blocks/0/mlp/conv1/kernel", (32, 128), ("fsdp", None)),
    ("stages/1/blocks/0/mlp/conv3/kernel", (128, 32), (None, "fsdp")),
    (
      "stages/0/blocks/0/mlp/conv2/kernel",
      (3, 3, 8, 32),
      (*[None] * 3, "fsdp"),
    ),
    ("stages/1/embed/proj/kernel", (64, 32), (None, "fsdp")),
    ("stages/1/0/conv1/kernel", (32, 16), (None, "fsdp")),
    ("dual_stage/0/shortcut/conv/kernel", (32, 64), (None, "fsdp")),
    ("stem/conv/kernel", (7, 7, 3, 32), (*[None] * 3, "fsdp")),
    ("stages/0/merge/norm/scale", (128,), ()),
    ("stages/1/position", (7, 7, 32), ()),
    # Not divisible by 4: whole.
    (QKV, (30, 96), (None, None)),
    ("position", (4, 30), (None, None)),
    # No rule, or a rule for another number of axes: whole.
    ("blocks/0/attention/qkv/bias", (96,), (None,)),
    ("blocks/0/norm1/scale", (32,), ()),
    ("patch_embed/kernel", (16, 16, 3, 32), ()),
    (QKV, (4, 32, 96), ()),
    ("qkv/kernel/more", (32, 96), ()),
    ("step", (), ()),
  ],
)
def test_partition(path, shape, expected):
  assert parameter_spec(path, shape, mesh(2, 4)) == PartitionSpec(*expected)


@pytest.mark.parametrize(
  ("path", "shape", "expected"),
  [
    (QKV, (32, 96), ("fsdp", "tensor")),
    ("blocks/0/attention/qkv/bias", (96,), ("tensor",)),
    ("blocks/0/mlp/fc2/kernel", (128, 32), ("tensor", "fsdp")),
    ("blocks/0/mlp/fc2/bias", (32,), ()),
    ("stages/2/blocks/5/bias/table", (31, 13, 13, 12), (*[None] * 3, "tensor")),
    ("stages/2/blocks/5/bias/table", (31, 13, 13, 3), (None,) * 4),
  ],
)
def test_wide_layers_are_split_over_tensor(path, shape, expected):
  sizes = mesh(1, 2, 1, 4)
  assert parameter_spec(path, shape, sizes) == PartitionSpec(*expected)


@pytest.mark.parametrize(
  ("name", "shape", "expected"),
  [
    ("video", (8, 16, 4, 4, 3), (("data", "fsdp"), "frames")),
    ("video", (8, 5, 16, 4, 4, 3), (("data", "fsdp"), None, "frames")),
    ("video", (8, 18, 4, 4, 3), (("data", "fsdp"),)),  # not divisible
    ("label", (8,), (("data", "fsdp"),)),
    ("erase", (8, 4), (("data", "fsdp"),)),
  ],
)
def test_inputs_are_split_over_clips_and_frames(name, shape, expected):
  sharding = input_sharding(name, shape, mesh(2, 1, 4))
  assert sharding.spec == PartitionSpec(*expected)


def test_an_axis_that_is_kept_whole_is_said(caplog):
  with caplog.at_level("INFO", logger="absl"):
    parameter_spec(QKV, (30, 96), mesh(2, 4))
  assert f"{QKV}: axis of 30 is not divisible by fsdp=4" in caplog.text


def test_an_axis_of_one_device_is_not_said(caplog):
  with caplog.at_level("INFO", logger="absl"):
    parameter_spec(QKV, (31, 97), mesh(8))
  assert not caplog.text


def test_shardings_are_in_the_tree_of_the_state():
  devices = mesh(1, 2, 1, 2)
  shape = jax.ShapeDtypeStruct((4, 12), "float32")
  tree = {"qkv": {"kernel": shape}, "norm": [shape]}
  assert state_shardings(tree, devices) == {
    "qkv": {"kernel": NamedSharding(devices, PartitionSpec("fsdp", "tensor"))},
    "norm": [NamedSharding(devices, PartitionSpec())],
  }


def test_batches_divide_over_all_devices():
  check_batch("eval.batch_size", 16, mesh(2, 4))
  check_batch("eval.batch_size", 2, mesh(1, 2, 4, 4))
  assert sentence(check_batch, "eval.batch_size", 12, mesh(2, 4)) == (
    "eval.batch_size=12 does not divide over 8 devices (mesh.data x "
    "mesh.fsdp); use a multiple"
  )
