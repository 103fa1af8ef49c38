"""A run stays with the data that it started with."""

import json
import os
import pathlib
from typing import Any

from vidjax.data.manifest import Manifest, ManifestError

_FILE = "data.json"


def pin_manifests(
  workdir: pathlib.Path,
  *manifests: Manifest,
  resumed: bool,
  write: bool = True,
) -> None:
  """Notes the splits of a run in its work directory, or compares with the note.

  A run's order of clips is a function of its seed and the number of a clip in
  the manifest: with other clips it could not be continued exactly.

  Args:
    workdir: of the run; `data.json` in it is the note.
    *manifests: the splits, as they are trained on.
    resumed: whether the run continues from a checkpoint. A run that starts
      afresh replaces the note.
    write: whether to write the note; of several processes that share the work
      directory all compare and one writes.

  Raises:
    ManifestError: if a resumed run has other clips, labels or classes than it
      had; the message names the split and what has changed.
  """
  path = workdir / _FILE
  new = {manifest.split: _note(manifest) for manifest in manifests}
  if resumed and path.exists():
    try:
      old = json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
      raise ManifestError(
        f"{path} is damaged ({error}): delete it if the data are those that "
        "the run started with."
      ) from error
    for split, note in new.items():
      if split in old and note["digest"] != old[split]["digest"]:
        raise ManifestError(
          f"split {split!r} of {note['root']} is not what this run started "
          f"with ({_difference(old[split], note)}), so it cannot be continued "
          "exactly: restore the manifest, or start anew in another work "
          f"directory (or delete {path} to go on with the new data)."
        )
    return
  if not write:
    return
  part = path.with_name(path.name + ".part")
  part.write_text(json.dumps(new, indent=1) + "\n", "utf-8")
  os.replace(part, path)


def _note(manifest: Manifest) -> dict[str, Any]:
  return {
    "digest": manifest.digest(),
    "root": str(manifest.root),
    "clips": len(manifest.clips),
    "classes": len(manifest.classes),
  }


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
  for what in ("clips", "classes"):
    if old[what] != new[what]:
      return f"{old[what]} {what} then, {new[what]} now"
  return (
    f"the same {new['clips']} clips in number, but others, in another "
    "order or with other labels"
  )
