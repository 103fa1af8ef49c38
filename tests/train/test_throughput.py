import pytest

from vidjax.train.throughput import peak_flops, with_prefix


@pytest.mark.parametrize(
  ("kind", "dtype", "peak"),
  [
    ("TPU v5 lite", "bfloat16", 197e12),
    ("TPU v5p", "bfloat16", 459e12),
    ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
    ("NVIDIA H100 80GB HBM3", "float32", None),
    ("cpu", "bfloat16", None),
  ],
)
def test_peak_of_a_device(kind, dtype, peak):
  assert peak_flops(kind, dtype) == peak


@pytest.mark.parametrize(
  ("number", "text"),
  [
    (0, "0"),
    (999, "999"),
    (1000, "1 k"),
    (1_234_567, "1.235 M"),
    (999_960_000, "1000 M"),
    (283_912_000_000, "283.9 G"),
    (2.5e13, "25 T"),
  ],
)
def test_decimal_prefixes(number, text):
  assert with_prefix(number) == text
