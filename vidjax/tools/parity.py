r"""Compares vidjax with stored outputs of the official PyTorch code.

    python -m vidjax.tools.parity PATH...

A path is a golden `.npz` file or a folder of them. Prints one line a case:
family, case, largest absolute error of the logits, worst relative error of the
gradients, PASS or FAIL. Exits with 1 if any case fails, 2 if a path is wrong.
"""

import argparse
import sys
from collections.abc import Callable, Mapping

from vidjax.tools import parity_laps, parity_sifa, parity_tps, parity_xvit
from vidjax.tools.golden import Case, Result, find_cases, read_case

FAMILIES: Mapping[str, Mapping[str, Callable[[Case], Result]]] = {
  "xvit": parity_xvit.KINDS,
  "tps": parity_tps.KINDS,
  "laps": parity_laps.KINDS,
  "sifa": parity_sifa.KINDS,
}


def run_case(case: Case) -> Result:
  """Runs one case.

  Raises:
    ValueError: if no runner knows its family or kind.
  """
  kinds = FAMILIES.get(case.family, {})
  if case.kind not in kinds:
    raise ValueError(
      f"{case.path}: no runner for family {case.family!r}, kind "
      f"{case.kind!r}; known families are {', '.join(FAMILIES)}"
    )
  return kinds[case.kind](case)


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  parser = argparse.ArgumentParser(
    description="Compares vidjax with stored outputs of official code."
  )
  parser.add_argument("paths", nargs="+", help="golden .npz files or folders")
  options = parser.parse_args(arguments)
  failures = 0
  try:
    for path in find_cases(options.paths):
      case = read_case(path)
      result = run_case(case)
      failures += not result.passed
      print(
        f"{case.family:<6} {case.name:<26} "
        f"logits {result.logit_error:.2e}  "
        f"gradients {result.gradient_error:.2e}  "
        f"{'PASS' if result.passed else 'FAIL'}",
        flush=True,
      )
  except ValueError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  return int(failures > 0)


if __name__ == "__main__":
  sys.exit(main())
