r"""What leap attention and periodic shift cost: LAPS against its baselines.

    python -m benchmarks.leap [--dtype=bfloat16] [--batch=4]

Visformer-S at 8 x 224 x 224 with LAPS, with leap attention or periodic shift
alone, without either, and with all frames joined; and LAPS at 8, 16 and 32
frames.
"""

from benchmarks.side_by_side import Table, read_arguments, run_tables

ROWS: Table = {
  "LAPS": ({}, 8),
  "leap only": ({"temporal": {"shift": "none"}}, 8),
  "shift only": ({"temporal": {"levels": (None,)}}, 8),
  "2-D": ({"temporal": {"op": "none"}}, 8),
  "joint": ({"temporal": {"op": "joint"}}, 8),
}
LENGTHS: Table = {f"LAPS, {t} frames": ({}, t) for t in (8, 16, 32)}


if __name__ == "__main__":
  run_tables(
    {"2-D": ROWS, "LAPS, 8 frames": LENGTHS},
    read_arguments(__doc__, "laps_visformer_s_k400"),
  )
