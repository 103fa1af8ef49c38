import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tests.models import tiny
from tests.weights.sources import abstract, assert_same, filled
from vidjax.models.resnet import ResNet
from vidjax.models.swin import Swin
from vidjax.models.visformer import Visformer
from vidjax.models.vit import ViT
from vidjax.nn.functional import merge, split
from vidjax.tools import parity_laps, parity_sifa, parity_tps, parity_xvit
from vidjax.tools.golden import load_case, read_case
from vidjax.weights.convert import convert, official_state
from vidjax.weights.families import FAMILIES
from vidjax.weights.keys import WeightsError, flat
from vidjax.weights.report import LISTED

VIT = {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 2, "heads": 3}
SWIN = {
  "image_size": 28,
  "patch_size": (2, 2, 2),
  "dim": 16,
  "depths": (2, 1),
  "heads": (2, 4),
  "window": (1, 7, 7),
  "bias_frames": 4,
}
RESNET = {"dim": 4, "depths": (1, 2, 2, 2), "image_size": 32}
VISFORMER = {
  "image_size": 48,
  "stem_width": 4,
  "dim": 16,
  "depths": (1, 1, 1),
  "heads": 2,
  "conv_groups": 4,
}
NONE, AVERAGE = {"op": "none"}, {"kind": "average"}
SIFA = {"op": "interframe", "window": 7}
# Models that official code has, one of each layout.
MODELS = {
  "xvit": (ViT, VIT | {"head": tiny.ATTENTION}),
  "xvit average": (ViT, VIT | {"head": AVERAGE}),
  "xvit no dropout": (ViT, VIT | {"head": AVERAGE, "dropout_rate": 0.0}),
  "laps vit": (
    ViT,
    VIT | {"temporal": NONE, "temporal_positions": 0, "head": AVERAGE},
  ),
  "timesformer": (
    ViT,
    VIT | {"temporal": {"op": "divided"}, "head": AVERAGE},
  ),
  "laps": (Visformer, VISFORMER | {"temporal": NONE}),
  "tps": (Swin, SWIN),
  "video_swin": (Swin, SWIN | {"temporal": NONE, "window": (2, 7, 7)}),
  "sifa swin": (
    Swin,
    SWIN | {"temporal": SIFA, "bias_frames": 1, "patch_norm": False},
  ),
  "sifa": (ResNet, RESNET),
  "sifa baseline": (
    ResNet,
    RESNET | {"blocks": ("T", "B", "M", "BT"), "temporal": NONE},
  ),
}


@functools.cache
def model(name, classes=5, **changes):
  make, options = MODELS[name]
  return filled(abstract(make, classes, **options | changes))


def source(name, **changes):
  return official_state(model(name, **changes), frames=8)


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name):
  ours = model(name)
  state = source(name)
  converted = convert(state, ours)
  assert_same(converted, ours)
  report = converted.report
  assert report.family == name.split()[0]
  assert not report.fresh
  # Every key is used or named, every array filled.
  named = [row.source for row in report.rows]
  named += [key for key, _ in report.ignored]
  assert sorted(named) == sorted(state)
  paths = {path for tree in split(ours)[1:] for path in flat(tree)}
  assert {row.path for row in report.rows} == paths
  again = official_state(
    merge(split(ours)[0], converted.params, converted.stats), frames=8
  )
  assert again.keys() == state.keys()
  for key, value in state.items():
    np.testing.assert_array_equal(again[key], value, err_msg=key)


GOLDEN = {
  "xvit/tiny_ta_div8": parity_xvit.build,
  "xvit/tiny_avg_div8": parity_xvit.build,
  "tps/tiny_base": parity_tps.build,
  "tps/tiny_pad": parity_tps.build,
  "laps/visformer_laps_T8": parity_laps.build_visformer,
  "laps/vit_laps_T8": parity_laps.build_vit,
  "sifa/net_tiny_seed0": functools.partial(parity_sifa.build_net, sifa=True),
  "sifa/swin_tiny_seed0": parity_sifa.build_swin,
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_weights_come_back_to_the_bit(name, shared):
  case = read_case(shared / f"golden/{name}.npz")
  loaded = load_case(case, GOLDEN[name](case.official))
  assert loaded.round_trip == 0
  ours = merge(loaded.definition, loaded.params, loaded.stats)
  assert case.under("w/").keys() <= official_state(ours, frames=16).keys()
  report = convert(case.under("w/"), ours).report
  assert report.family == case.family


def test_constants(shared):
  case = read_case(shared / "golden/tps/ops.npz")
  state = official_state(
    filled(abstract(Swin, 5, **SWIN | {"bias_frames": 16}))
  )
  block = "backbone.layers.0.blocks.1.attn.relative_position_index"
  for key, name in ((block, "psm"), (f"{block}_old", "tsm_and_space")):
    stored = case.arrays[f"rel_index/{name}"]
    np.testing.assert_array_equal(state[key], stored)
    assert state[key].dtype == np.int64
  state = source("sifa")
  assert (state["layer3.1.def_cor.weight"] == np.float32(1 / 16)).all()
  assert "layer3.1.def_cor.weight" not in official_state(model("sifa"))
  mask = source("sifa swin")["layers.0.blocks.1.attn_mask"]
  assert set(np.unique(mask)) == {-100.0, 0.0}


def test_official_state_of_another_family():
  state = official_state(model("laps"), "laps")
  assert state.keys() == source("laps").keys()
  with pytest.raises(WeightsError, match=r"this Visformer is of 'laps'; use"):
    official_state(model("laps"), "xvit")


def test_conversion_takes_no_weights_of_an_abstract_model():
  make, options = MODELS["tps"]
  converted = convert(source("tps"), abstract(make, 5, **options))
  assert_same(converted, model("tps"))


# Wrong files. What becomes of a good source; options; the error, or what the
# report has: notes, ignored and fresh.


def changed(state, **changes):
  return state | changes


def without(state, pattern):
  return {key: x for key, x in state.items() if pattern not in key}


def test_a_prefix_of_a_wrapper():
  for prefix in ("module.", "_orig_mod.", "module._orig_mod."):
    wrapped = {f"{prefix}{k}": x for k, x in source("tps").items()}
    converted = convert(wrapped, model("tps"))
    assert_same(converted, model("tps"))
    assert f"{prefix.split('.')[0]}.' cut" in converted.report.notes[0]


def test_an_averaged_model():
  """torch.optim.swa_utils.AveragedModel, which wraps and counts."""
  averaged = {f"module.{k}": x for k, x in source("xvit").items()}
  averaged["n_averaged"] = np.array(7)
  converted = convert(averaged, model("xvit"))
  assert_same(converted, model("xvit"))
  assert "counter" in dict(converted.report.ignored)["n_averaged"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precision(dtype):
  state = source("sifa")
  floats = {
    key: value.astype(jnp.dtype(dtype)) if value.dtype.kind == "f" else value
    for key, value in state.items()
  }
  converted = convert(floats, model("sifa"))
  number = sum(value.dtype.kind == "f" for value in state.values())
  note = f"{number} arrays cast from {dtype} to float32"
  assert note in converted.report.notes
  for tree in (converted.params, converted.stats):
    for leaf in jax.tree.leaves(tree):
      assert leaf.dtype == jnp.float32
  (row,) = [r for r in converted.report.rows if r.source == "conv1.weight"]
  assert row.transform == f"{dtype} to float32, stem"
  weight = floats["conv1.weight"].astype(np.float32)
  kernel = converted.params["stem"]["conv"]["kernel"]
  assert kernel[5, 6, 2 * 3 + 1, 3] == weight[3, 1, 2, 5, 6]


def test_a_new_head():
  classifiers = {
    "xvit": "head/fc2",
    "tps": "head/fc",
    "sifa": "head/fc",
  }
  for name, layer in classifiers.items():
    state = source(name, classes=9)
    message = r"fc2?/kernel .* model has \(\d+, 5\) \(new_head=True keeps"
    with pytest.raises(WeightsError, match=message):
      convert(state, model(name))
    converted = convert(state, model(name), new_head=True)
    fresh = dict(converted.report.fresh)
    wanted = {f"{layer}/kernel", f"{layer}/bias"}
    if name == "sifa":
      wanted |= {"dual_head/fc/kernel", "dual_head/fc/bias"}
    assert fresh == dict.fromkeys(wanted, "a new head")
    params, old = flat(converted.params), flat(split(model(name))[1])
    for path in params:  # the same seed, but for the classifier
      same = np.array_equal(params[path], old[path])
      assert same or path not in wanted
    # A classifier that fits is taken, new_head or not.
    assert not convert(source(name), model(name), new_head=True).report.fresh


def test_a_missing_head():
  state = without(source("laps"), "head.")
  with pytest.raises(WeightsError, match=r"nothing fills head/fc/bias \(5,\)"):
    convert(state, model("laps"))
  report = convert(state, model("laps"), new_head=True).report
  assert dict(report.fresh).keys() == {"head/fc/kernel", "head/fc/bias"}


def test_a_head_of_another_kind():
  state = source("xvit average")
  report = convert(state, model("xvit"), new_head=True).report
  fresh = dict(report.fresh)
  assert all(path.startswith("head/") for path in fresh)
  assert "head/blocks/0/attention/qkv/kernel" in fresh
  state = source("xvit")
  report = convert(state, model("xvit average"), new_head=True).report
  assert "consensus.cls_token" in dict(report.ignored)
  # Official X-ViT stores an average's classifier beside its attention head.
  with pytest.raises(WeightsError, match=r"unknown key consensus\.cls_token"):
    convert(state, model("xvit average"))


def test_a_fresh_head_of_an_abstract_model():
  make, options = MODELS["tps"]
  with pytest.raises(WeightsError, match=r"head/fc/kernel keeps .* abstract"):
    convert(
      source("tps", classes=9), abstract(make, 5, **options), new_head=True
    )


BLOCK = "base_model.blocks.0.mlp.fc1"
WRONG = {
  "extra keys": (
    lambda s: s | {"base_model.decoder.weight": np.zeros((2, 3))},
    {},
    [r"unknown key base_model\.decoder\.weight \(2, 3\)"],
  ),
  "missing keys": (
    lambda s: without(s, "blocks.1.norm"),
    {},
    ["nothing fills blocks/1/norm1/scale", "nothing fills blocks/1/norm2/bias"],
  ),
  "another width": (
    lambda s: s | {f"{BLOCK}.weight": np.zeros((48, 24))},
    {},
    [rf"{BLOCK}\.weight \(48, 24\) gives blocks/0/mlp/fc1/kernel \(24, 48\)"],
  ),
  "more blocks": (
    lambda s: s | {f"{BLOCK[:18]}9.norm1.bias": np.zeros(24)},
    {},
    [r"belongs to blocks/9/norm1/bias, which this model lacks"],
  ),
  "another model": (
    lambda s: source("tps"),
    {},
    [r"weights of TPS \(family 'tps'\) for a Swin, but the model is a ViT; "],
  ),
  "another family named": (
    lambda s: s,
    {"family": "laps"},
    [
      r"the weights of LAPS or TokShift \(family 'laps'\) do not fit this",
      r"unknown key consensus\.cls_token \(1, 1, 24\)",
    ],
  ),
  "no known family": (
    lambda s: {"encoder.a": np.zeros(2), "norm.weight": np.zeros(2)},
    {},
    [
      r"of no known family; the nearest is '\w+' \(.*\) with 1 of 2 keys, and "
      r"the first others are encoder\.a"
    ],
  ),
  "a part of a known family": (
    lambda s: {"pos_embed": np.zeros((1, 17, 24))},
    {},
    [r"nearest is '\w+' \(.*\) with 1 of 1 keys, and some are missing; "],
  ),
  "no known key": (
    lambda s: {"a": np.zeros(2)},
    {},
    [r"none of the 1 keys is of a known family; the first are a; .* xvit"],
  ),
  "nested": (
    lambda s: {"model_state": s, "epoch": np.array(3)},
    {},
    [r"dictionaries \('model_state'\) .* source\['model_state'\]"],
  ),
  "moving averages": (
    lambda s: {"model": s, "model_ema": s},
    {},
    [r"dictionaries \('model', 'model_ema'\) .* source\['model'\]"],
  ),
  "moving averages beside": (
    lambda s: s | {"ema_base_model_norm_bias": np.zeros(24)},
    {},
    [r"unknown key ema_base_model_norm_bias"],
  ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file(name):
  change, options, messages = WRONG[name]
  with pytest.raises(WeightsError) as error:
    convert(change(source("xvit")), model("xvit"), **options)
  for message in messages:
    error.match(message)


def test_an_unknown_family():
  with pytest.raises(ValueError, match="family is 'bert'; use one of 'xvit'"):
    convert(source("xvit"), model("xvit"), family="bert")


def test_one_error_lists_all():
  state = without(source("sifa"), "bn2.running")
  state |= {"a": np.zeros(1), "b": np.zeros(2)}
  with pytest.raises(WeightsError) as error:
    convert(state, model("sifa"))
  lines = str(error.value).splitlines()[1:]
  bottlenecks = 1 + 2 + 2 + 2 + 2
  assert len(lines) == 2 * bottlenecks + 2


# Other sizes.


def test_positions_of_xvit_are_resized_as_its_code_does():
  """With the scale of the pixels: 40 / 32 in 5 rows of 4."""
  larger = model("xvit", image_size=44)  # 5 patches, and 4 pixels more
  converted = convert(source("xvit"), larger)
  old = np.asarray(split(model("xvit"))[1]["position"])
  new = np.asarray(converted.params["position"])
  np.testing.assert_array_equal(new[0], old[0])
  scale = (44 / 32, 44 / 32)
  want = oracles.bicubic(old[1:].reshape(4, 4, -1), (5, 5), scale)
  np.testing.assert_allclose(new[1:], want.reshape(25, -1), atol=1e-6)
  (row,) = [r for r in converted.report.rows if r.resized]
  assert row.path == "position"
  assert "  resized:\n    position  squeeze(0,), 17 x" in str(converted.report)
  assert row.transform == "squeeze(0,), 17 x 24 to 26 x 24 (bicubic)"
  assert (row.shape, row.path_shape) == ((1, 17, 24), (26, 24))


def bilinear(table, side):
  """Half-pixel centres, cell by cell, edges repeated."""
  old = len(table)
  new = np.zeros((side, side, table.shape[-1]))
  for y, x in np.ndindex(side, side):
    places = [
      min(max((n + 0.5) * old / side - 0.5, 0), old - 1) for n in (y, x)
    ]
    (i, a), (j, b) = ((int(p), p - int(p)) for p in places)
    for p, u in ((i, 1 - a), (min(i + 1, old - 1), a)):
      for q, v in ((j, 1 - b), (min(j + 1, old - 1), b)):
        new[y, x] += u * v * table[p, q]
  return new


@pytest.mark.parametrize("patches", [2, 7])
def test_positions_of_images_are_resized_bilinearly(patches):
  other = model("laps vit", image_size=8 * patches)
  converted = convert(source("laps vit"), other)
  old = np.asarray(split(model("laps vit"))[1]["position"])
  want = bilinear(old[1:].reshape(4, 4, -1), patches).reshape(patches**2, -1)
  np.testing.assert_allclose(converted.params["position"][1:], want, atol=1e-6)


def test_positions_of_timesformer_are_the_nearest():
  other = model("timesformer", image_size=56, temporal_positions=12)
  params = convert(source("timesformer"), other).params
  old = split(model("timesformer"))[1]
  square = np.asarray(old["position"])[1:].reshape(4, 4, -1)
  new = np.asarray(params["position"])[1:].reshape(7, 7, -1)
  for y, x in np.ndindex(7, 7):
    np.testing.assert_array_equal(new[y, x], square[y * 4 // 7, x * 4 // 7])
  for t in range(12):
    row = old["temporal_position"][t * 8 // 12]
    np.testing.assert_array_equal(params["temporal_position"][t], row)


def test_more_frames_repeat_the_temporal_positions_of_xvit():
  longer = model("xvit", temporal_positions=12)
  params = convert(source("xvit"), longer).params
  old = split(model("xvit"))[1]["temporal_position"]
  for t in range(12):
    np.testing.assert_array_equal(params["temporal_position"][t], old[t % 8])


def test_maps_of_visformer_are_resized_bicubically():
  params = convert(source("laps"), model("laps", image_size=96)).params
  old = split(model("laps"))[1]["stages"]
  for number, side in (("0", 12), ("1", 6), ("2", 3)):
    table = np.asarray(old[number]["position"])
    scale = side / len(table)
    want = oracles.bicubic(table, (side, side), (scale, scale))
    got = params["stages"][number]["position"]
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_bias_tables_are_resized_to_another_number_of_frames():
  params = convert(source("tps"), model("tps", bias_frames=7)).params
  path = ("stages", "1", "blocks", "0", "bias", "table")
  old, new = split(model("tps"))[1], params
  for key in path:
    old, new = old[key], new[key]
  assert new.shape == (13, 13, 13, 4)
  for i in range(13):  # twice as many steps: each old one, and halfway
    want = (np.asarray(old)[i // 2] + np.asarray(old)[(i + 1) // 2]) / 2
    np.testing.assert_allclose(new[i], want, atol=1e-6)


def test_what_cannot_be_resized_is_a_fault():
  state = source("laps vit")
  state["base_model.pos_embed"] = np.zeros((1, 12, 24), np.float32)
  with pytest.raises(WeightsError, match=r"\(1, 12, 24\) gives position"):
    convert(state, model("laps vit"))
  state = source("tps")
  key = "backbone.layers.0.blocks.0.attn.relative_position_bias_table"
  state[key] = np.zeros((100, 2), np.float32)
  with pytest.raises(WeightsError, match=r"table \(100, 2\) gives stages/0"):
    convert(state, model("tps"))


# The report.


def test_the_report_in_words():
  state = source("xvit")
  report = convert(state, model("xvit")).report
  text, table = str(report), report.table()
  first = text.splitlines()[0]
  number = len(report.rows)
  assert first == (
    f"X-ViT (family xvit) -> ViT: {number} arrays filled, 0 fresh, "
    "2 source keys ignored"
  )
  assert "the classifier that temporal attention ignores" in text
  assert f"and {number - LISTED} more; report.table() lists all" in text
  assert len(table.splitlines()) == 1 + 1 + 2 + 1 + number
  for key in state:
    assert f" {key} " in table
  (line,) = [x for x in table.splitlines() if " base_model.temp_embed " in x]
  assert line.split("  ")[-1] == "squeeze(0, 2)"
  assert "(1, 8, 1, 24)" in line
  assert "-> " in line
  columns = {x.index(" -> ") for x in table.splitlines()[5:]}
  assert len(columns) == 1


def test_every_family_has_a_title_and_backbones():
  assert len({family.title for family in FAMILIES.values()}) == len(FAMILIES)
  assert all(family.backbones for family in FAMILIES.values())
