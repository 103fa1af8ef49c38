r"""What patch shift costs: PST against the same Swin, and against Video Swin.

    python -m benchmarks.patch_shift [--dtype=bfloat16] [--batch=4]

PST-T at 32 x 224 x 224 beside the same Swin without any shift and beside joint
windows of 8 x 7 x 7, and PST-T at 16, 32 and 64 frames.
"""

from benchmarks.side_by_side import Table, read_arguments, run_tables

NONE = {"op": "none"}
SHIFTS: Table = {
  "PST": ({}, 32),
  "no shift": ({"temporal": NONE}, 32),
  "joint 8x7x7": ({"temporal": NONE, "window": (8, 7, 7)}, 32),
}
LENGTHS: Table = {
  f"PST, {frames} frames": ({"bias_frames": frames // 2}, frames)
  for frames in (16, 32, 64)
}


if __name__ == "__main__":
  run_tables(
    {"no shift": SHIFTS, "PST, 16 frames": LENGTHS},
    read_arguments(__doc__, "pst_t_k400"),
  )
