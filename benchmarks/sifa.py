r"""What SIFA costs in a network: SIFA-Net beside the same ResNet without it.

    python -m benchmarks.sifa [--dtype=bfloat16] [--batch=4]

ResNet-50 at 16 x 224 x 224 with SIFA, with its global context blocks alone, and
with neither (C2D).
"""

from benchmarks.side_by_side import Table, read_arguments, run_tables

NONE = {"op": "none"}
ROWS: Table = {
  "SIFA": ({}, 16),
  "no attention": ({"temporal": NONE}, 16),
  "C2D": ({"temporal": NONE, "blocks": ("B",) * 4}, 16),
}


if __name__ == "__main__":
  run_tables({"C2D": ROWS}, read_arguments(__doc__, "sifa_r50_16f_k400"))
