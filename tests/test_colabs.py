"""The notebooks: their form. `python -m colabs.run --smoke` runs them."""

import json
import os
import re

import nbformat
import pytest

from colabs import run

NOTEBOOKS = run.notebooks()
README = run.FOLDER / "README.md"
MACHINE = re.compile(r"/(work|root|home|tmp|Users|mnt|content)\b")


@pytest.fixture(params=NOTEBOOKS.values(), ids=NOTEBOOKS)
def notebook(request):
  return json.loads(request.param.read_text("utf-8"))


def text_of(cell):
  return "".join(cell["source"])


def cells_of(notebook, kind):
  return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def by_id(notebook, name):
  (cell,) = (cell for cell in notebook["cells"] if cell["id"] == name)
  return text_of(cell)


def test_all_are_there():
  assert [name[:3].strip("_") for name in NOTEBOOKS] == [
    *("01", "02", "03a", "03b", "03c", "03d", "04", "05")
  ]


def test_is_valid(notebook):
  nbformat.validate(nbformat.from_dict(notebook))
  names = [cell["id"] for cell in notebook["cells"]]
  assert len(names) < 30
  assert all(re.fullmatch(r"[a-z][a-z-]*", name) for name in names), names


def test_has_no_results(notebook):
  for cell in cells_of(notebook, "code"):
    assert cell["outputs"] == []
    assert cell["execution_count"] is None
    assert cell["metadata"] == {}
  assert set(notebook["metadata"]) == {"colab", "kernelspec", "language_info"}


def test_is_written_as_tools_write_it(request, notebook):
  text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
  path = NOTEBOOKS[request.node.callspec.id]
  assert path.read_text("utf-8") == text


def test_starts_with_title_and_purpose(notebook):
  first = notebook["cells"][0]
  assert first["cell_type"] == "markdown"
  assert re.match(r"# \S.*\n\n\*\*Purpose\.\*\* \S", text_of(first))


def test_says_what_it_runs_on(notebook):
  kinds = [cell["cell_type"] for cell in notebook["cells"][:6]]
  assert "code" in kinds
  cell = by_id(notebook, "device")
  assert "jax.devices()" in cell
  assert "device.platform" in cell
  assert cell.count("VIDJAX_SMOKE") == 2


def test_setup_is_the_same_everywhere():
  cells = {
    by_id(json.loads(path.read_text("utf-8")), "setup")
    for path in NOTEBOOKS.values()
  }
  assert len(cells) == 1
  assert "pip" in cells.pop()


def test_the_switch_is_read_once(notebook):
  cells = [text_of(cell) for cell in cells_of(notebook, "code")]
  assert sum("os.environ.get" in text for text in cells) == 1


def test_cells_are_short_and_explained(notebook):
  for cell in notebook["cells"]:
    lines = text_of(cell).splitlines()
    assert len(lines) <= 42, cell["id"]
    assert all(len(line) <= 84 for line in lines), cell["id"]
  words = sum(len(text_of(c).split()) for c in cells_of(notebook, "markdown"))
  assert words > 150


def test_code_compiles(request, notebook):
  for cell in cells_of(notebook, "code"):
    compile(text_of(cell), f"{request.node.callspec.id}:{cell['id']}", "exec")


def test_names_no_machine(notebook):
  for cell in notebook["cells"]:
    found = MACHINE.search(text_of(cell))
    assert found is None, f"{cell['id']}: {found[0]}"


@pytest.mark.parametrize(
  "path", [README, *NOTEBOOKS.values()], ids=lambda path: path.name
)
def test_links_lead_to_files(path):
  text = path.read_text("utf-8")
  if path.suffix == ".ipynb":
    cells = cells_of(json.loads(text), "markdown")
    text = "\n".join(map(text_of, cells))
  for target in re.findall(r"\]\(([^)\s]+)\)", text):
    if not target.startswith("https:"):
      assert (path.parent / target).exists(), target


def test_readme_has_every_notebook():
  text = README.read_text()
  assert all(f"({name}.ipynb)" in text for name in NOTEBOOKS)


def test_variables_are_set_for_a_while(monkeypatch):
  monkeypatch.setenv("COLABS_A", "mine")
  with run.variables({"COLABS_A": "other", "COLABS_B": "new"}):
    assert os.environ["COLABS_A"] == "mine"
    assert os.environ["COLABS_B"] == "new"
  assert os.environ["COLABS_A"] == "mine"
  assert "COLABS_B" not in os.environ


def test_unknown_names_are_refused(capsys):
  with pytest.raises(SystemExit):
    run.main(["09"])
  assert "no notebook 09" in capsys.readouterr().err


def test_a_failure_is_told(tmp_path, monkeypatch, capsys):
  kept = tmp_path / "kept"
  good = ("print(2 + 2)", "")
  bad = ("1 / 0", "division by zero")

  def instead(path, folder):
    assert not list(folder.iterdir())
    code, error = bad if path.stem.startswith("02") else good
    cells = [nbformat.v4.new_code_cell(code)]
    return nbformat.v4.new_notebook(cells=cells), error

  monkeypatch.setattr(run, "run", instead)
  assert run.main(["01", "--smoke"]) == 0
  assert run.main(["01", "02", f"--keep={kept}"]) == 1
  out = capsys.readouterr().out
  assert "01_quickstart  ok" in out
  assert "02_train_on_your_videos  FAILED\ndivision by zero" in out
  assert "2 notebooks, 1 failed" in out
  assert sorted(path.stem[:2] for path in kept.iterdir()) == ["01", "02"]
