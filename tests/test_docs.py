"""The site: commands, links and docstrings. `make docs` builds the pages."""

import ast
import inspect
import pathlib
import re

import numpy as np
import pytest

from docs import commands, figures, hooks, tpu_table
from vidjax.nn.temporal import Temporal

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
WRITTEN = [
  *(ROOT / "docs").glob("*.md"),
  *(ROOT / "benchmarks").glob("*.md"),
  *ROOT.glob("[CR]*.md"),
]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_says_why_not(page):
  for block in commands.read_blocks(page):
    place = f"docs/{page}:{block.line}"
    assert block.language in (*commands.LANGUAGES, "json", "text", ""), place
    if block.language == "python":
      compile(block.code, place, "exec")
    if block.language == "console":
      assert commands.shell_of(block), f"{place} has no line with $"
    assert len(block.excuse) > 10 or not block.excuse, f"{place}: say more"


def test_every_fence_is_a_block():
  for page in PAGES:
    text = (ROOT / "docs" / page).read_text()
    fences = len(re.findall(r"^ *```", text, re.M))
    assert fences == 2 * len(commands.read_blocks(page)), page


def test_every_page_is_in_the_navigation():
  assert sorted(commands.pages()) == PAGES


def test_every_command_is_on_the_page_of_commands():
  text = (ROOT / "docs" / "tools.md").read_text()
  for module in hooks.public_modules():
    path = (ROOT / module.replace(".", "/")).with_suffix(".py")
    if path.exists() and 'if __name__ == "__main__"' in path.read_text():
      inner = module == "vidjax.data.guard"  # what the index starts
      assert inner or f"python -m {module}" in text, module


def test_excused_pages_exist():
  assert set(commands.EXCUSED) <= set(PAGES)


def test_notes_and_blocks_are_read(tmp_path, monkeypatch):
  (tmp_path / "docs").mkdir()
  (tmp_path / "docs" / "x.md").write_text(
    "text\n\n<!-- prepare: mkdir a -->\n```bash\ncd a\n```\n\n"
    "- item\n\n  <!-- not run: needs a TPU\n  of its own -->\n"
    "  ```console\n  $ one \\\n    two\n  out\n  ```\n"
    "\n```\npython -m vidjax.main\n```\n\n```\nplain\n```\n"
  )
  monkeypatch.setattr(commands, "ROOT", tmp_path)
  first, second, third, fourth = commands.read_blocks("x.md")
  assert (first.line, first.language, first.code) == (4, "bash", "cd a\n")
  assert (first.prepare, first.excuse) == ("mkdir a", "")
  assert second.excuse == "needs a TPU\n  of its own"
  assert commands.shell_of(second).split() == ["one", "two"]
  assert (third.language, fourth.language) == ("bash", "")


def test_trainings_are_shortened():
  short = commands.shortened
  page = "--config=configs/xvit_k400.py"
  assert short(f"{page} --mode=eval") == f"{page}:smoke --mode=eval"
  assert short(f"{page}:a,b") == f"{page}:a,b,smoke"
  assert short("--config.train.steps=40") == "--config.train.steps=2"
  motion = short("--config=configs/xvit_motion.py:tsm --x")
  assert motion.startswith("--config=configs/xvit_motion.py:tsm --config.")
  assert "--config.train.steps=2 " in motion
  assert motion.endswith(" --x")


def test_a_failing_block_is_told(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  variables = {}
  commands.run_python("a = 1", variables, "x")
  commands.run_python("b = a + 1", variables, "x")
  assert variables["b"] == 2
  with pytest.raises(commands.BlockError, match="division by zero"):
    commands.run_python("a / 0", variables, "x")
  with pytest.raises(commands.BlockError, match="no such thing"):
    commands.run_shell("echo no such thing; false; true")
  commands.run_shell("echo fine > out")
  assert (tmp_path / "out").read_text() == "fine\n"


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_links_lead_to_files(path):
  text = re.sub(r"^ *```.*?^ *```$", "", path.read_text(), flags=re.M | re.S)
  for target in re.findall(r"\]\(([^)\s]+)\)", text):
    if re.match(r"https?:|mailto:", target):
      continue
    file, _, anchor = target.partition("#")
    there = (path.parent / file).resolve() if file else path
    assert there.exists(), f"{path.name}: {target}"
    if anchor:
      assert anchor in _anchors(there), f"{path.name}: {target}"


def _anchors(path):
  headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
  return {
    re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")
    for heading in headings
  }


def _public(module):
  """Yields name and node of the functions and classes that are public."""
  path = ROOT / module.replace(".", "/")
  path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
  tree = ast.parse(path.read_text())
  yield module, tree
  kinds = (ast.FunctionDef, ast.ClassDef)
  for node in tree.body:
    if isinstance(node, kinds) and not node.name.startswith("_"):
      yield f"{module}.{node.name}", node
      for inner in node.body if isinstance(node, ast.ClassDef) else ():
        if isinstance(inner, ast.FunctionDef) and inner.name[0] != "_":
          yield f"{module}.{node.name}.{inner.name}", inner


# Arrays of no fixed shape, or of one that the docstring cannot tell.
_BARE = re.compile(r"(jax\.Array|np\.ndarray)\b")
_SHAPE = re.compile(r"\([a-z0-9 .,*]+\)|shape|scalar|\bt and n\b", re.I)


# What overrides a hook of the plug has the shapes that are told there.
_INHERITED = {
  name: method.__doc__ or ""
  for name, method in vars(Temporal).items()
  if inspect.isfunction(method)
}


@pytest.mark.parametrize("module", hooks.public_modules())
def test_public_names_are_explained_with_shapes(module):
  for name, node in _public(module):
    text = ast.get_docstring(node)
    assert text, f"{name} has no docstring"
    if isinstance(node, ast.FunctionDef):
      text += _INHERITED.get(node.name, "")
      arguments = [*node.args.args, *node.args.kwonlyargs]
      types = [a.annotation for a in arguments] + [node.returns]
      for kind in filter(None, types):
        bare = _BARE.search(_without_shaped(kind))
        told = not bare or _SHAPE.search(text)
        assert told, f"{name}: say the shape of {ast.unparse(kind)}"


def _without_shaped(annotation):
  """The text of an annotation, without arrays whose shape it says."""
  return re.sub(
    r"\b\w+\[(?:jax\.|np\.)?\w*[aA]rray, '[^']*'\]",
    "",
    ast.unparse(annotation),
  )


def test_the_reference_has_every_module_and_its_names():
  places = hooks.reference()
  assert places["vidjax.ops.mixing"] == "api/vidjax.ops.mixing.md"
  name = "vidjax.ops.mixing.mix_frames"
  assert places[name] == f"api/vidjax.ops.mixing.md#{name}"


def test_figures_are_read_off_the_operations():
  still = figures.sources(lambda x: x, 3, 4)
  np.testing.assert_array_equal(still, np.full((3, 4), 2))

  def move(x):  # the first channel from t + 1, the second from t - 1
    x = np.array(x)
    moved = x.copy()
    moved[:, :-1, :, 0], moved[:, -1, :, 0] = x[:, 1:, :, 0], 0
    moved[:, 1:, :, 1], moved[:, 0, :, 1] = x[:, :-1, :, 1], 0
    return moved

  np.testing.assert_array_equal(
    figures.sources(move, 3, 3), [[0, 3, 2], [0, 1, 2], [3, 1, 2]]
  )


def test_figures_are_drawn_and_there(tmp_path):
  figures.main([str(tmp_path)])
  for name in figures.FIGURES:
    assert (tmp_path / f"{name}.svg").stat().st_size > 10_000
    assert (figures.FOLDER / f"{name}.svg").exists()


# --- the table of docs/tpu.md


def test_rows_of_the_table_are_those_it_should_have():
  text = tpu_table.TABLE.read_text()
  lines = [line for line in text.splitlines() if line.startswith("| `")]
  cells = [row.cells for row in tpu_table.rows()]
  assert len(set(cells)) == len(cells)
  for line in lines:
    assert line.startswith(tuple(cells)), f"{line}: of no page, slice and batch"
  assert len(tpu_table.missing(text)) == len(cells) - len(lines)
  assert tpu_table.in_order(text) == text


def test_batches_of_the_slices():
  rows = {(row.page, row.topology): row for row in tpu_table.rows()}
  # 96 clips in 4 parts on 16 devices are one and a half each: two.
  assert rows["sifa_r50_k400_64", "v5e:4x4"].clips == 128
  assert rows["xvit_k400", "v5e:16x16"].clips == 16 * 64
  assert rows["xvit_k400", "v5e:16x16"].evaluated == 16 * 16
  assert ("xvit_long", "v5p:2x2x4") not in rows
  assert rows["xvit_long", "v5e:2x4"].clips == 8


def test_a_row_without_the_largest_batch():
  first, second, *others = tpu_table.rows()
  text = f"{second.cells} 1 | 64 |\n{first.cells} 1 | - |\n"
  assert tpu_table.missing(text) == others
  assert tpu_table.missing(text, largest=True) == [first, *others]
  assert tpu_table.missing(text, only="no such page") == []
  assert tpu_table.in_order(text).splitlines()[0].startswith(first.cells)
