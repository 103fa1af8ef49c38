"""How much of a device's arithmetic a run uses."""

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
