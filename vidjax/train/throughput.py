"""How much arithmetic a run needs, and how much of a device's it uses."""

# Dense peak in FLOP/s by the start of `device_kind`, from the vendors' data
# sheets.
_PEAK_BFLOAT16 = {
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5e": 197e12,
  "TPU v5": 459e12,
  "TPU v6": 918e12,
  "NVIDIA A100": 312e12,
  "NVIDIA H100": 989e12,
  "NVIDIA H200": 989e12,
  "NVIDIA B200": 2250e12,
}


def peak_flops(device_kind: str, dtype: str) -> float | None:
  """Returns the bfloat16 peak of one device in FLOP/s.

  None if the device is not in the table or the dtype has another peak: a
  wrong utilisation is worse than none.
  """
  if dtype != "bfloat16":
    return None
  for prefix, peak in _PEAK_BFLOAT16.items():
    if device_kind.startswith(prefix):
      return peak
  return None


def with_prefix(number: float | int) -> str:
  """Returns a number with a decimal prefix ("1.234 M")."""
  for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
    if number >= size:
      return f"{number / size:.4g} {prefix}"
  return f"{number:.4g}"
