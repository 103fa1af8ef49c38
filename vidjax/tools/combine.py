"""Accuracy of several models together, from the scores of their evaluations.

    python -m vidjax.tools.combine RUN RUN [RUN ...]
    python -m vidjax.tools.combine --pairs VERB_RUN NOUN_RUN

The first averages the probabilities of an ensemble. The second joins a model of
verbs and one of nouns: an action is right if both are.
"""

import argparse
import pathlib
import sys

from vidjax.scores import mean_scores, read_scores, top_k, top_pairs


def main(arguments: list[str] | None = None) -> int:
  """Prints the accuracies of each model and of all together."""
  parser = argparse.ArgumentParser(
    prog="python -m vidjax.tools.combine",
    description="Accuracy of several models.",
  )
  parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN")
  parser.add_argument("--pairs", action="store_true")
  options = parser.parse_args(arguments)
  if options.pairs and len(options.runs) != 2:
    parser.error(f"--pairs joins two runs, not {len(options.runs)}")
  try:
    parts = [read_scores(run) for run in options.runs]
    lines = [
      (str(run), *(top_k(x.scores, x.labels, k) for k in (1, 5)))
      for run, x in zip(options.runs, parts, strict=True)
    ]
    if options.pairs:
      hits = (top_pairs(parts[0], parts[1], k) for k in (1, 5))
      lines.append(("pairs", *hits))
    else:
      joined = mean_scores(parts)
      hits = (top_k(joined.scores, joined.labels, k) for k in (1, 5))
      lines.append(("together", *hits))
  except ValueError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  width = max(len(name) for name, *_ in lines)
  for name, first, five in lines:
    print(
      f"{name.ljust(width)}  top-1 {100 * first.mean():.2f} %  "
      f"top-5 {100 * five.mean():.2f} %  ({len(first)} videos)"
    )
  return 0


if __name__ == "__main__":
  sys.exit(main())
