import dataclasses
import importlib
import json
import pathlib
import re

import pytest

from vidjax.models.registry import MODELS, model_spec
from vidjax.tools import zoo
from vidjax.tools.profile_model import profile
from vidjax.tools.published import ALSO_PUBLISHED, OPERATIONS, PAPERS, PUBLISHED

PAGES = {
  path.stem
  for path in (pathlib.Path(__file__).parents[2] / "configs").glob("*.py")
  if path.stem not in ("__init__", "common")
  and not path.stem.endswith(("_recipe", "_long"))
}
# Of every backbone one that is quick to build; all take a minute.
QUICK = (
  "xvit_b16_8f_ssv2",
  "pst_t_k400",
  "laps_visformer_s_k400",
  "c2d_r50_16f_k400",
  "sifa_motion",
)


@pytest.fixture(scope="module")
def page():
  return zoo.PAGE.read_text("utf-8")


def read_tables(text):
  """Returns the page's rows by section: a model's cells by column."""
  sections = {}
  for section in text.split("\n## ")[1:]:
    title, *lines = section.splitlines()
    table = [
      [cell.strip() for cell in line.strip("|").split("|")]
      for line in lines
      if line.startswith("|")
    ]
    sections[title] = [
      dict(zip(table[0], row, strict=True)) for row in table[2:]
    ]
  return sections


@pytest.fixture(scope="module")
def rows(page):
  tables = read_tables(page)
  return {
    row["model"].strip("`"): row for table in tables.values() for row in table
  }


def written(row):
  """The figures of a row, as far as it has their digits."""
  return {
    "params": round(float(row["parameters (M)"]) * 1e6),
    "gmacs_per_view": float(row["GMACs x clips x crops"].split(" x ")[0]),
  }


def test_page_is_what_the_code_says_but_for_figures(page, rows):
  assert zoo.render(lambda name: written(rows[name])) == page


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in MODELS
  ],
)
def test_figures_are_counted(rows, name):
  row, figures = rows[name], profile(name)
  assert row["parameters (M)"] == f"{figures['params'] / 1e6:.4g}"
  macs = row["GMACs x clips x crops"].split(" x ")[0]
  assert macs == f"{figures['gmacs_per_view']:.4g}"


def test_figures_agree_with_the_published(rows):
  for name, row in PUBLISHED.items():
    figures = written(rows[name])
    want = {key: row.get(f"published_{key}") for key in figures}
    assert want["params"] in (pytest.approx(figures["params"], rel=1e-3), None)
    assert want["gmacs_per_view"] in (
      pytest.approx(figures["gmacs_per_view"], rel=0.01),
      None,
    )


def test_every_model_is_there_once(page):
  names = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
  assert sorted(names) == sorted(MODELS)


def test_sections(page):
  tables = read_tables(page)
  assert list(tables) == [section.title for section in zoo.SECTIONS]
  names = {
    title: [row["model"].strip("`") for row in table]
    for title, table in tables.items()
  }
  *systems, baselines, tiny = names.values()
  for of_one_system in systems:
    assert len({model_spec(name).system for name in of_one_system}) == 1
    assert not any(name.endswith("_motion") for name in of_one_system)
  assert {model_spec(name).system.split()[-1] for name in baselines} == {
    "baseline"
  }
  assert all(model_spec(name).image_size == 64 for name in tiny)
  laps = next(table for title, table in names.items() if "LAPS" in title)
  assert laps[0] == "laps_visformer_s_k400"  # its home ahead of ViT
  assert laps[-1] == "laps_vit_l16_384_k400"


def test_every_page_is_linked_and_there(page):
  links = re.findall(r"\[(\w+)\]\(\.\./configs/(\w+)\.py\)", page)
  assert all(text == file for text, file in links)
  assert {file for _, file in links} == PAGES


def test_links_inside_the_repository(page):
  for link in re.findall(r"\]\((\.\./[^)]+)\)", page):
    assert (zoo.PAGE.parent / link).exists(), link


def test_row_of_a_released_model(rows):
  row = rows["xvit_b16_ssv2"]
  assert row.pop("trained weights").startswith("[file](https://")
  assert row == {
    "model": "`xvit_b16_ssv2`",
    "backbone": "ViT-B/16",
    "frames x stride": "16 segments",
    "pixels": "224",
    "parameters (M)": "93.62",
    "GMACs x clips x crops": "281.1 x 2 x 3",
    "top-1 / top-5, published, not re-measured": "SSv2 67.19 / 91.0",
    "configuration": "[xvit_ssv2](../configs/xvit_ssv2.py)",
  }


@pytest.mark.parametrize(
  ("name", "column", "cell"),
  [
    ("laps_visformer_s_360_k400", "frames x stride", "32 x 8"),
    (
      "laps_visformer_s_360_k400",
      "configuration",
      "[laps_k400_32x8](../configs/laps_k400_32x8.py) `:360`",
    ),
    ("tokshift_b16_16f_k400", "frames x stride", "16 x 32"),
    ("sifa_r50_16f_k400", "frames x stride", "16 x 1"),
    ("sifa_r50_16f_ssv1", "frames x stride", "16 segments"),
    ("sifa_r50_16f_ssv1", "trained weights", "-"),
    ("pst_l_k400", "frames x stride", "32"),
    ("pst_l_k400", "configuration", "-"),
    ("pst_l_k400", "top-1 / top-5, published, not re-measured", "-"),
    ("pst_t_diving48", "GMACs x clips x crops", "72.07"),
    ("sifa_r101_16f_k400", "backbone", "ResNet-101"),
    ("sifa_swin_s_16f_k400", "backbone", "Swin-S"),
    ("laps_visformer_s_k400", "backbone", "Visformer-S"),
    (
      "laps_visformer_s_k400",
      "top-1 / top-5, published, not re-measured",
      "K400 76.04",
    ),
    ("xvit_b32_8f_ssv2", "backbone", "ViT-B/32"),
    ("pst_motion", "backbone", "Swin, 64 channels"),
    ("vit_joint_motion", "temporal operation", "joint attention"),
    ("visformer_s_la_k400", "temporal operation", "leap attention"),
    (
      "timesformer_motion",
      "paper",
      "[TimeSformer](https://arxiv.org/abs/2102.05095)",
    ),
  ],
)
def test_cells(rows, name, column, cell):
  assert rows[name][column] == cell


def test_models_without_a_page(rows):
  """Listed here, so that a page that is lost is seen."""
  without = {n for n, row in rows.items() if row["configuration"] == "-"}
  assert without == {
    "xvit_b16_8f_ssv2",
    "xvit_b32_8f_ssv2",
    "xvit_l16_8f_ssv2",
    "xvit_l32_8f_ssv2",
    "pst_l_k400",
    "swin_t_k400",
    "video_swin_t_k400",
    "vit_b16_8f_k400",
    "vit_joint_b16_8f_k400",
    "timesformer_b16_8f_k400",
    "tsm_vit_b16_8f_k400",
    "tokshift_vit_b16_8f_k400",
    "sifa_swin_s_16f_k400",
    "sifa_swin_b_16f_k400",
    "sifa_swin_l_16f_k400",
  }


def test_variants_that_only_change_options_are_not_uses():
  uses = zoo.find_uses()
  found = {(use.page, use.variant) for use in uses["sifa_r50_16f_k400"]}
  assert found == {("sifa_r50_k400_16", "")}
  found = {(use.page, use.variant) for use in uses["tsm_r50_16f_k400"]}
  assert found == {("sifa_r50_k400_16", "tsm")}


def test_facts_are_of_registered_models_and_used(page):
  assert not PUBLISHED.keys() & ALSO_PUBLISHED.keys()
  assert (ALSO_PUBLISHED.keys() | zoo.RELEASED.keys()) <= MODELS.keys()
  for start in OPERATIONS:
    assert any(name.startswith(start) for name in MODELS), start
  for arxiv in PAPERS.values():
    assert f"https://arxiv.org/abs/{arxiv}" in page


def test_published_accuracy_is_quoted_whole(rows, shared):
  published = json.loads((shared / "published.json").read_text())["models"]
  for name, model in published.items():
    row = rows[name]
    for data, (top1, top5) in model.get("published", {}).items():
      cell = f"{data} {top1}" + (f" / {top5}" if top5 else "")
      assert row["top-1 / top-5, published, not re-measured"] == cell
      views = row["GMACs x clips x crops"].split(" x ", 1)[1]
      assert views == model["views"].replace("x", " x ")


def test_write_and_check(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(zoo, "PAGE", tmp_path / "models.md")
  monkeypatch.setattr(zoo, "render", lambda: "ü\n")
  assert zoo.main(["--check"]) == 1
  assert zoo.main(["--write"]) == 0
  assert zoo.main(["--check"]) == 0
  zoo.PAGE.write_text("another", "utf-8")
  capsys.readouterr()
  assert zoo.main(["--check"]) == 1
  assert capsys.readouterr().err == (
    f"{zoo.PAGE} is not what the code says; write it anew with "
    "python -m vidjax.tools.zoo --write\n"
  )
  assert zoo.main([]) == 0
  assert capsys.readouterr().out == "ü\n"


def test_no_checkout(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(zoo, "ROOT", tmp_path)
  assert zoo.main([]) == 2
  assert "there are no configuration pages in" in capsys.readouterr().err


def test_page_that_takes_any_variant(monkeypatch):
  page = importlib.import_module("configs.tps_k400")
  config = page.get_config()
  monkeypatch.setattr(page, "get_config", lambda variant="": config)
  with pytest.raises(ValueError, match="takes any variant; end it with"):
    zoo.find_uses()


def test_model_without_a_place(monkeypatch):
  spec = dataclasses.replace(MODELS["vit_motion"], system="New")
  monkeypatch.setitem(MODELS, "new", spec)
  with pytest.raises(ValueError, match=r"'new' of the system 'New' has no"):
    zoo.render(lambda name: {"params": 1, "gmacs_per_view": 1.0})


def test_model_of_an_unknown_operation(monkeypatch):
  monkeypatch.setitem(MODELS, "new_motion", MODELS["vit_motion"])
  with pytest.raises(ValueError, match=r"frames of 'new_motion' is not known"):
    zoo.render(lambda name: {"params": 1, "gmacs_per_view": 1.0})
