r"""The papers' ablations in small: operations x backbones on motion clips.

Purpose: one budget (clips, steps, optimiser) for every row of `ROWS`: the four
systems, the parts that their papers take away or exchange, and the usual
baselines. What is not said here is common.motion_recipe.

    python -m vidjax.tools.ablate --config=configs/ablation_motion.py \
        --workdir=runs/ablation

Results and what they can and cannot tell: see benchmarks/ablation.md. A row is
trained alone with `--rows=pst`, with other seeds with
`--config.ablation.seeds='(3, 4)'`; `smoke` makes every row a two-step trial.
"""

from typing import Any

import ml_collections

from configs import common
from vidjax.models.registry import model_options, with_overrides

STEPS, BATCH = 500, 16

NONE = {"op": "none"}
AVERAGE = {"kind": "average"}
TSM = {"op": "channel_shift", "fold_div": 8}
MIXING = {"op": "mixing", "shift_div": 4}
PST = {"op": "patch_shift", "schedule": "pst"}
LAPS = {"op": "leap"}
# SIFA in a block of attention: the paper's order, behind a norm that starts at
# zero so that a pretrained backbone would start unchanged.
SIFA = {
  "op": "interframe",
  "places": "all",
  "window": 0,
  "convolve": False,
  "offsets": "rescaled",
  "offset_init": "zero",
}
PATCH_ONLY = PST | {"schedule": "patch_only"}
# A stem of one frame: the official one joins four, and so sees motion itself.
PER_FRAME = "sifa_per_frame_motion"
RESNET = {"dim": 8, "dual_head": False}

Row = tuple[str, dict[str, Any]]


def _sifa(**changes: Any) -> Row:
  return PER_FRAME, RESNET | {"temporal": {"stages": (2, 3)} | changes}


ROWS: dict[str, Row] = {
  # X-ViT on ViT; all but the last group with its temporal attention head.
  "xvit": ("xvit_motion", {}),
  "xvit_none": ("xvit_motion", {"temporal": {"mix": "none"}}),
  "xvit_x": ("xvit_motion", {"temporal": {"mix": "x"}}),
  "xvit_k": ("xvit_motion", {"temporal": {"mix": "k"}}),
  "xvit_v": ("xvit_motion", {"temporal": {"mix": "v"}}),
  "xvit_25": ("xvit_motion", {"temporal": {"shift_div": 8}}),
  "xvit_100": ("xvit_motion", {"temporal": {"shift_div": 2}}),
  "xvit_ta2": ("xvit_motion", {"head": {"layers": 2}}),
  "xvit_ta3": ("xvit_motion", {"head": {"layers": 3}}),
  "vit_tw0": ("xvit_motion", {"temporal": {"mix": "none"}, "head": AVERAGE}),
  "vit_mixing": ("xvit_motion", {"head": AVERAGE}),
  "vit_tw2": ("xvit_motion", {"temporal": {"window": 2}, "head": AVERAGE}),
  "vit_tw2_boundary": (
    "xvit_motion",
    {"temporal": {"window": 2, "boundary_only": True}, "head": AVERAGE},
  ),
  # The other operations on ViT, frames averaged.
  "vit_none": ("vit_motion", {}),
  "vit_joint": ("vit_joint_motion", {}),
  "vit_divided": ("timesformer_motion", {}),
  "vit_tsm": ("tsm_vit_motion", {}),
  "vit_tokshift": ("tokshift_vit_motion", {}),
  "vit_pst": ("tsm_vit_motion", {"temporal": PST}),
  "vit_laps": ("tsm_vit_motion", {"temporal": LAPS}),
  "vit_sifa": ("tsm_vit_motion", {"temporal": SIFA}),
  # TPS's own table, on ViT too: its Swin needs several times the steps.
  "vit_patch": ("tsm_vit_motion", {"temporal": PATCH_ONLY}),
  "vit_channel": (
    "tsm_vit_motion",
    {"temporal": PST | {"schedule": "channel_only"}},
  ),
  "vit_every": (
    "tsm_vit_motion",
    {"temporal": PST | {"schedule": "all_patch"}},
  ),
  "vit_stay": (
    "tsm_vit_motion",
    {"temporal": PATCH_ONLY | {"shift_back": False}},
  ),
  "vit_patch_a": (
    "tsm_vit_motion",
    {"temporal": PATCH_ONLY | {"pattern": "a3"}},
  ),
  "vit_patch_b": (
    "tsm_vit_motion",
    {"temporal": PATCH_ONLY | {"pattern": "b4"}},
  ),
  "vit_patch_d": (
    "tsm_vit_motion",
    {"temporal": PATCH_ONLY | {"pattern": "d16"}},
  ),
  # Swin.
  "swin_none": ("swin_motion", {}),
  "swin_joint": ("video_swin_motion", {}),
  "swin_tsm": ("swin_motion", {"temporal": TSM}),
  "swin_mixing": ("swin_motion", {"temporal": MIXING}),
  "swin_sifa": ("swin_motion", {"temporal": SIFA}),
  "pst": ("pst_motion", {}),
  # LAPS on Visformer.
  "laps": ("laps_visformer_motion", {}),
  "laps_la": ("visformer_la_motion", {}),
  "laps_ps": ("visformer_ps_motion", {}),
  "laps_plain": ("laps_visformer_motion", {"temporal": {"shift": "plain"}}),
  "visformer_plain": ("visformer_ps_motion", {"temporal": {"shift": "plain"}}),
  "visformer_none": ("visformer_2d_motion", {}),
  "visformer_joint": ("visformer_2d_motion", {"temporal": {"op": "joint"}}),
  "visformer_tsm": ("visformer_2d_motion", {"temporal": TSM}),
  "visformer_mixing": ("visformer_2d_motion", {"temporal": MIXING}),
  "visformer_pst": ("visformer_2d_motion", {"temporal": PST}),
  "visformer_sifa": ("visformer_2d_motion", {"temporal": SIFA}),
  # SIFA on ResNet, narrow and without the dual head.
  "sifa": _sifa(),
  "sifa_grid": _sifa(offsets="none"),
  "sifa_one": _sifa(offsets="none", kernel=1),
  "sifa_next": _sifa(offsets="next"),
  "sifa_difference": _sifa(offsets="difference"),
  "sifa_saliency": _sifa(offsets="saliency"),
  "resnet_context": (PER_FRAME, RESNET | {"temporal": NONE}),
  "resnet_none": ("c2d_motion", RESNET),
  "resnet_tsm": ("c2d_motion", RESNET | {"blocks": ("M",) * 4}),
  "resnet_conv": ("c2d_motion", RESNET | {"blocks": ("T",) * 4}),
  "sifa_stem": ("sifa_motion", RESNET | {"temporal": {"stages": (2, 3)}}),
}

# What is shown together: rows by what they are called there.
TABLES: dict[str, dict[str, str]] = {
  "Operations on ViT": {
    "spatial only": "vit_none",
    "spatial, frame positions": "vit_tw0",
    "TokShift": "vit_tokshift",
    "TSM": "vit_tsm",
    "divided attention": "vit_divided",
    "joint attention": "vit_joint",
    "space-time mixing": "vit_mixing",
    "patch shift (PST)": "vit_pst",
    "LAPS": "vit_laps",
    "SIFA": "vit_sifa",
  },
  "Operations on Swin": {
    "spatial only": "swin_none",
    "TSM": "swin_tsm",
    "3-D windows": "swin_joint",
    "space-time mixing": "swin_mixing",
    "patch shift (PST)": "pst",
    "SIFA": "swin_sifa",
  },
  "Operations on Visformer": {
    "spatial only": "visformer_none",
    "TSM": "visformer_tsm",
    "joint attention": "visformer_joint",
    "space-time mixing": "visformer_mixing",
    "patch shift (PST)": "visformer_pst",
    "LAPS": "laps",
    "SIFA": "visformer_sifa",
  },
  "Operations on ResNet": {
    "spatial only": "resnet_none",
    "TSM": "resnet_tsm",
    "temporal convolution": "resnet_conv",
    "SIFA": "sifa",
    "SIFA, stem of 4 frames": "sifa_stem",
  },
  "X-ViT: window (averaging head)": {
    "t_w = 0": "vit_tw0",
    "t_w = 1": "vit_mixing",
    "t_w = 2": "vit_tw2",
    "t_w = 2, boundary only": "vit_tw2_boundary",
  },
  "X-ViT: what is mixed": {
    "nothing": "xvit_none",
    "x": "xvit_x",
    "k": "xvit_k",
    "v": "xvit_v",
    "k and v": "xvit",
  },
  "X-ViT: mixed channels": {
    "0 %": "xvit_none",
    "25 %": "xvit_25",
    "50 %": "xvit",
    "100 %": "xvit_100",
  },
  "X-ViT: temporal attention layers": {
    "0 (average)": "vit_mixing",
    "1": "xvit",
    "2": "xvit_ta2",
    "3": "xvit_ta3",
  },
  "TPS: pattern (patches only, ViT)": {
    "none": "vit_tw0",
    "A-3": "vit_patch_a",
    "B-4": "vit_patch_b",
    "C-9": "vit_patch",
    "D-16": "vit_patch_d",
  },
  "TPS: where and back (patches only, ViT)": {
    "alternating, shifted back": "vit_patch",
    "alternating, left there": "vit_stay",
    "every block, shifted back": "vit_every",
  },
  "TPS: patches and channels (ViT)": {
    "neither": "vit_tw0",
    "channels only": "vit_channel",
    "patches only": "vit_patch",
    "both (PST)": "vit_pst",
  },
  "LAPS: leap and shift (Visformer)": {
    "neither (2D)": "visformer_none",
    "LA": "laps_la",
    "plain shift": "visformer_plain",
    "PS": "laps_ps",
    "LA and plain shift": "laps_plain",
    "LA and PS (LAPS)": "laps",
  },
  "SIFA: offsets (ResNet)": {
    "no attention": "resnet_context",
    "same place only (K = 1)": "sifa_one",
    "regular grid": "sifa_grid",
    "from next frame": "sifa_next",
    "from difference": "sifa_difference",
    "re-scaled (paper)": "sifa_saliency",
    "re-scaled (code)": "sifa",
  },
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the budget, with the models of all rows in `ablation.rows`."""
  c = common.get_config()
  c.name = "Ablations on motion clips"
  common.set_model(c, "xvit_motion")
  common.motion_recipe(c)
  c.data.batch_size = BATCH
  c.motion.train_clips = STEPS * BATCH  # none is seen twice
  c.train.update({"epochs": 0.0, "steps": STEPS, "log_every_steps": 100})
  # A cosine of so few steps leaves too few of them with a high rate.
  c.schedule.update(
    {"name": "steps", "warmup_epochs": 0.2, "decay_epochs": (0.8,)}
  )
  c.eval.update({"every_epochs": 0.0, "every_steps": STEPS})
  c.checkpoint.update({"every_epochs": 0.0, "every_steps": STEPS})
  c.writers.tensorboard = False
  common.apply_variant(c, variant)
  with c.unlocked():
    c.ablation = ml_collections.ConfigDict(
      {
        "seeds": (0, 1),
        "timed_steps": 10,  # of every row, in turns
        "rows": {name: _model(row, variant) for name, row in ROWS.items()},
        "tables": tuple(
          (title, tuple(rows.items())) for title, rows in TABLES.items()
        ),
      }
    )
  return c


def _model(row: Row, variant: str) -> ml_collections.ConfigDict:
  """Returns the complete options of a row's model."""
  name, changes = row
  options = with_overrides(model_options(name), changes)
  c = common.get_config()
  with c.unlocked():
    c.model = ml_collections.ConfigDict(options)
  common.apply_variant(c, variant)
  return c.model
