"""What MkDocs is told beside `mkdocs.yml`: pages that are made, and links.

The reference has a page for each public module, and files of the repository
that pages link to (configurations, measurements) become pages too: a link such
as `../configs/x.py` leads to the file on a forge, and to its page on the site.
"""

import ast
import functools
import pathlib
import posixpath
import re
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What `docs.commands` reads ahead of a block; no reader needs it.
NOTE = re.compile(r"^<!-- (not run|prepare): (.*?) -->\n", re.M | re.S)
_LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)#\s]+)(?=[#)])")
# Beside docs/: which files are pages of the site. A link to any other file of
# the repository fails a strict build.
_GUESTS = ("benchmarks/*.md", "configs/[a-z]*.py", "C*.md")
_LISTS = {"Configurations": "configs/", "Measurements": "benchmarks/"}


def public_modules() -> list[str]:
  """Returns the dotted names of all public modules, packages among them."""
  names = []
  for path in (ROOT / "vidjax").rglob("*.py"):
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    if not any(part.startswith("_") for part in parts):
      names.append(".".join(parts))
  return sorted(names)


def guests() -> dict[str, str]:
  """Returns files beside docs/, and the addresses of their pages."""
  return {
    path.relative_to(ROOT).as_posix(): path.relative_to(ROOT)
    .with_suffix(".md")
    .as_posix()
    for pattern in _GUESTS
    for path in sorted(ROOT.glob(pattern))
  }


def on_config(config: MkDocsConfig) -> MkDocsConfig:
  """Adds the pages that are made to the navigation."""

  def fill(entries: list[Any]) -> None:
    for title, pages in ((k, v) for x in entries for k, v in x.items()):
      if title in _LISTS:
        prefix = _LISTS[title]
        pages.extend(x for x in guests().values() if x.startswith(prefix))
      elif title == "Reference":
        pages.extend(_reference())
      elif isinstance(pages, list):
        fill(pages)

  fill(config.nav or [])
  return config


def _reference() -> list[dict[str, list[str]]]:
  """The packages, and the modules of each."""
  packages: dict[str, list[str]] = {}
  for name in public_modules():
    package = (ROOT / name.replace(".", "/")).is_dir()
    home = name if package else name.rpartition(".")[0]
    packages.setdefault(home, []).append(f"api/{name}.md")
  return [{name: pages} for name, pages in packages.items()]


def on_files(files: Files, config: MkDocsConfig) -> Files:
  """Adds the pages that are made."""
  for name in public_modules():
    text = f"# {name}\n\n::: {name}\n"
    files.append(File.generated(config, f"api/{name}.md", content=text))
  for path, address in guests().items():
    text = (ROOT / path).read_text()
    if path.endswith(".py"):
      title = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
      text = f"# {path}\n\n{title}\n\n```python\n{text}```\n"
    files.append(File.generated(config, address, content=text))
  return files


@functools.cache
def reference() -> dict[str, str]:
  """Returns where the reference explains each dotted name."""
  places = {}
  for module in public_modules():
    places[module] = f"api/{module}.md"
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(path.read_text()).body:
      named = isinstance(node, ast.FunctionDef | ast.ClassDef)
      if named and not node.name.startswith("_"):
        name = f"{module}.{node.name}"
        places[name] = f"api/{module}.md#{name}"
  return places


def _linked_names(markdown: str, folder: str) -> str:
  """Leads names of the library in running text to the reference."""

  def link(match: re.Match[str]) -> str:
    place = reference().get(match[1])
    if place is None:
      return match[0]
    return f"[{match[0]}]({posixpath.relpath(place, folder)})"

  parts = re.split(r"(^ *```.*?^ *```$)", markdown, flags=re.M | re.S)
  parts[::2] = [
    re.sub(r"(?<!\[)`(vidjax(?:\.\w+)+)`", link, part) for part in parts[::2]
  ]
  return "".join(parts)


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
  """Leads links to the pages, and drops notes to the runner of commands."""
  own = page.file.src_uri
  homes = {address: path for path, address in guests().items()}
  source = homes.get(own, f"docs/{own}")

  def lead(match: re.Match[str]) -> str:
    target = posixpath.normpath(
      posixpath.join(posixpath.dirname(source), match[1])
    )
    address = guests().get(target)
    if target.startswith("docs/"):
      address = target.removeprefix("docs/")
    if target == "configs":
      address = "configuration.md"
    if address is None:
      return match[1]
    return posixpath.relpath(address, posixpath.dirname(own))

  text = _LINK.sub(lead, NOTE.sub("", markdown))
  return _linked_names(text, posixpath.dirname(own))


@functools.cache
def _aliases(module: str) -> dict[str, ast.expr]:
  """Names that stand for array types in a module, its own and imported."""
  path = ROOT / f"{module.replace('.', '/')}.py"
  found: dict[str, ast.expr] = {}
  if not path.exists():
    return found
  for node in ast.parse(path.read_text()).body:
    if isinstance(node, ast.ImportFrom) and node.module is not None:
      if node.module.startswith("vidjax"):
        theirs = _aliases(node.module)
        names = (alias.name for alias in node.names)
        found |= {name: theirs[name] for name in names if name in theirs}
    elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript):
      text = ast.unparse(node.value)
      if isinstance(node.targets[0], ast.Name) and "Array, '" in text:
        found[node.targets[0].id] = node.value
  return found


class _Shapes(ast.NodeTransformer):
  """Puts the shapes that names stand for in their place."""

  def __init__(self, module: str):
    self.aliases = _aliases(module)

  def visit_Name(self, node: ast.Name) -> ast.expr:
    return self.aliases.get(node.id, node)


class WrittenAnnotations(griffe.Extension):
  """Shows annotations as they are written, with the shapes of named arrays.

  By itself griffe takes the shape "k" for the name of a type, and "b t c" for
  a text.
  """

  def on_function_instance(
    self, *, node: Any, func: griffe.Function, **_: Any
  ) -> None:
    """Puts the text of every annotation in the place of what was parsed."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      return
    shapes = _Shapes(func.module.path)
    given = node.args
    arguments = (*given.posonlyargs, *given.args, *given.kwonlyargs)
    for argument in (*arguments, given.vararg, given.kwarg):
      if argument is not None and argument.annotation is not None:
        func.parameters[argument.arg].annotation = ast.unparse(
          shapes.visit(argument.annotation)
        )
    if node.returns is not None:
      func.returns = ast.unparse(shapes.visit(node.returns))

  def on_attribute_instance(
    self, *, node: Any, attr: griffe.Attribute, **_: Any
  ) -> None:
    """The same for attributes."""
    if isinstance(node, ast.AnnAssign):
      shapes = _Shapes(attr.module.path)
      attr.annotation = ast.unparse(shapes.visit(node.annotation))
