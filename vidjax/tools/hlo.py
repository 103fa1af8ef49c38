"""Reads optimised programs: what they multiply, exchange and move, and where.

The text of a compiled program (`compiled.as_text()`) is what one device runs:
shapes are those of its shards. Bodies of loops are counted once a turn.
"""

import dataclasses
import functools
import math
import pathlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import vidjax

COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-broadcast",
  "collective-permute",
  "ragged-all-to-all",
  "reduce-scatter",
)
# What a TPU computes while it reads and writes a byte (v5e: 197 TFLOP/s and
# 819 GB/s, and a transposition does both).
_FLOPS_OF_A_MOVE = 480
_MEGABYTE = 10**6
_PACKAGE = str(pathlib.Path(vidjax.__file__).parent)
_NAME = r"%?([\w.\-]+)"
_OPERATION = re.compile(rf"\s+(ROOT )?{_NAME} = (.*)$")
_COMPUTATION = re.compile(rf"(ENTRY )?{_NAME} \(.*\{{$")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([\d,]*))?")
_CALLED = re.compile(
  r"(?:calls|condition|body|true_computation|false_computation)="
  rf"{_NAME}"
)
# The computations of other operations' `to_apply` are of single numbers.
_APPLIED = re.compile(rf"to_apply={_NAME}")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")


class Shape(NamedTuple):
  """An array's dtype as XLA writes it, its sizes, and its order in memory."""

  dtype: str
  sizes: tuple[int, ...]
  layout: tuple[int, ...]  # axes from the fastest to the slowest

  @property
  def bytes(self) -> int:
    """Bytes of the numbers, without padding."""
    if self.dtype in ("token", "opaque"):
      return 0
    width = re.search(r"\d+", self.dtype)
    bits = 8 if width is None else int(width[0])  # pred has no digits
    return math.prod(self.sizes) * bits // 8


@dataclasses.dataclass(frozen=True)
class Operation:
  """One line of a program.

  Attributes:
    name: without the percent sign.
    kind: "dot", "all-reduce-start", ...
    shapes: of the result; several if it is a tuple.
    operands: names, in the same computation.
    argument: the text between the brackets.
    attributes: the text after them.
  """

  name: str
  kind: str
  shapes: tuple[Shape, ...]
  operands: tuple[str, ...]
  argument: str
  attributes: str

  @property
  def bytes(self) -> int:
    """Bytes of the result."""
    return sum(shape.bytes for shape in self.shapes)


Computation = dict[str, Operation]


@dataclasses.dataclass(frozen=True)
class Traffic:
  """Collectives of one kind in one run of a program, on one device.

  Attributes:
    count: how many run, loops included.
    bytes: of their operands or results, whichever is more.
  """

  count: int
  bytes: int


@dataclasses.dataclass(frozen=True)
class Program:
  """A parsed program.

  Attributes:
    computations: their operations by name, in order.
    entry: name of the computation that is run.
    roots: names of the operations that computations return.
    tables: lines of source names by table and number.
  """

  computations: dict[str, Computation]
  entry: str
  roots: dict[str, str]
  tables: dict[str, dict[int, str]]

  @functools.cached_property
  def times(self) -> dict[str, int]:
    """How often each computation runs; both branches of a condition do."""
    times: dict[str, int] = defaultdict(int)

    def run(name: str, turns: int) -> None:
      times[name] += turns
      for operation in self.computations[name].values():
        for called in _called(operation):
          more = self._turns(operation) if operation.kind == "while" else 1
          run(called, turns * more)

    run(self.entry, 1)
    return dict(times)

  def run(self) -> Iterator[tuple[Operation, Computation, int]]:
    """Yields the operations that run, their computations, and how often."""
    for name, times in self.times.items():
      computation = self.computations[name]
      for operation in computation.values():
        yield operation, computation, times

  def source(self, operation: Operation) -> str:
    """Returns the innermost line of vidjax that led to an operation.

    "" if the program does not say it; a line of other code if none is ours.
    """
    match = re.search(r"stack_frame_id=(\d+)", operation.attributes)
    if match is None:
      return ""
    number, first = int(match[1]), ""
    while number:
      frame = _numbers(self.tables["StackFrames"].get(number, ""))
      if "file_location_id" not in frame:
        break
      location = self.tables["FileLocations"][frame["file_location_id"]]
      where = _numbers(location)
      file = self.tables["FileNames"][where["file_name_id"]].strip('"')
      function = self.tables["FunctionNames"][where["function_name_id"]]
      ours = file.startswith(_PACKAGE)
      short = file.removeprefix(str(pathlib.Path(_PACKAGE).parent) + "/")
      line = f"{short}:{where['line']} ({_short(function)})"
      if ours:
        return line
      first = first or line
      # A frame without a parent has the number 1 here, and not 0.
      number = frame.get("parent_frame_id", 1) - 1
    return first

  def _turns(self, loop: Operation) -> int:
    """Returns how often the body of a `while` runs, 1 if it cannot be read."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
    if known:
      return int(known[1])
    condition = re.search(rf"condition={_NAME}", loop.attributes)
    if condition is None:
      return 1
    operations = self.computations[condition[1]]
    limit = operations[self.roots[condition[1]]]
    if limit.kind == "compare" and "direction=LT" in limit.attributes:
      last = operations.get(limit.operands[-1])
      if last is not None and last.kind == "constant":
        return int(last.argument)
    return 1


def parse(text: str) -> Program:
  """Parses the text of a compiled program.

  Raises:
    ValueError: if it has no entry computation.
  """
  computations: dict[str, Computation] = {}
  roots: dict[str, str] = {}
  tables: dict[str, dict[int, str]] = {name: {} for name in _TABLES}
  entry, current, table = "", "", ""
  for line in text.splitlines():
    if line in tables:
      table = line
    elif not line:
      table = ""
    elif table:
      number, _, rest = line.partition(" ")
      tables[table][int(number)] = rest
    elif line[0] != " " and (match := _COMPUTATION.match(line)):
      current = match[2]
      computations[current] = {}
      entry = current if match[1] else entry
    elif match := _OPERATION.match(line):
      operation = _operation(match[2], match[3])
      computations[current][operation.name] = operation
      if match[1]:
        roots[current] = operation.name
  if not entry:
    raise ValueError(
      "this text is not a compiled program (no ENTRY computation); give what "
      "compiled.as_text() returns"
    )
  return Program(computations, entry, roots, tables)


def collectives(program: Program) -> dict[str, Traffic]:
  """Returns what a device exchanges in one run, by kind of collective."""
  found: dict[str, Traffic] = {}
  for operation, computation, times in program.run():
    kind = operation.kind.removesuffix("-start")
    if kind not in COLLECTIVES:
      continue
    result = operation
    if operation.kind != kind:  # the result is that of the "-done" beside it
      result = next(
        other
        for other in computation.values()
        if other.kind == f"{kind}-done" and operation.name in other.operands
      )
    operands = sum(computation[name].bytes for name in operation.operands)
    before = found.get(kind, Traffic(0, 0))
    found[kind] = Traffic(
      before.count + times,
      before.bytes + times * max(operands, result.bytes),
    )
  return dict(sorted(found.items()))


def matmul_flops(operation: Operation, computation: Computation) -> int:
  """Returns a product's or convolution's operations, two for a multiply-add.

  Taps of a convolution on padding or between dilated inputs are not counted;
  TPUs write batched products as such convolutions. Other operations have 0.
  """
  if operation.kind == "dot":
    left = computation[operation.operands[0]].shapes[0].sizes
    depth = math.prod(left[axis] for axis in _axes("lhs_c", operation))
    return 2 * depth * math.prod(operation.shapes[0].sizes)
  if operation.kind != "convolution":
    return 0
  match = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", operation.attributes)
  assert match is not None  # every convolution has them
  left, kernel = (computation[name].shapes[0] for name in operation.operands)
  sizes = [
    dict(zip(labels, shape.sizes, strict=True))
    for labels, shape in zip(
      match.groups(), (left, kernel, operation.shapes[0]), strict=True
    )
  ]
  taps = 1
  window = _window(operation.attributes)
  for axis in filter(str.isdigit, match[1]):
    taps *= _taps(
      sizes[0][axis],
      sizes[2][axis],
      {key: value[int(axis)] for key, value in window.items()},
    )
  return 2 * taps * sizes[1]["i"] * sizes[2]["b"] * sizes[2]["f"]


def flops(program: Program) -> int:
  """Returns the operations of all products and convolutions of one run."""
  return sum(
    times * matmul_flops(operation, computation)
    for operation, computation, times in program.run()
  )


def moved_bytes(operation: Operation, computation: Computation) -> int:
  """Returns the bytes that a transposition writes, 0 for other operations.

  After XLA's layout assignment it is a copy to another order of the axes.
  """
  if operation.kind not in ("copy", "transpose") or not operation.operands:
    return 0
  one = computation[operation.operands[0]].shapes[0]
  other = operation.shapes[0]
  axes = _axes("dimensions", operation) or range(len(one.sizes))
  # Axes of the operand in memory; those of one element have no place.
  before = [axis for axis in one.layout if one.sizes[axis] > 1]
  after = [axes[axis] for axis in other.layout if other.sizes[axis] > 1]
  return 0 if before == after else operation.bytes


class Finding(NamedTuple):
  """Operations of one place of the code that cost more than they should.

  Attributes:
    what: "gather", "scatter", "transposition" or "float32 product".
    size: bytes that they write, or of products FLOP, in one run of a program.
    where: line of the code, or of what it was compiled from.
  """

  what: str
  size: int
  where: str

  def __str__(self) -> str:
    unit = "GFLOP" if "product" in self.what else "GB"
    return f"{self.what}: {self.size / 1e9:.3g} {unit} at {self.where}"


def findings(program: Program, dtype: str) -> list[Finding]:
  """Returns the operations that should not be there, the largest first.

  Those are gathers and scatters of more than a megabyte, transpositions that
  take more than a hundredth of the products' time (and ten megabytes), and
  products of float32 in programs of bfloat16.

  Args:
    program: of a step.
    dtype: the compute dtype.
  """
  sizes: dict[tuple[str, str], int] = defaultdict(int)
  total = 0
  for operation, computation, times in program.run():
    product = matmul_flops(operation, computation)
    total += times * product
    if operation.kind in ("gather", "scatter"):
      what, size = operation.kind, operation.bytes
    elif product:
      dtypes = {
        computation[name].shapes[0].dtype for name in operation.operands
      }
      single = dtype == "bfloat16" and dtypes == {"f32"}
      what, size = "float32 product", product * single
    else:
      what = "transposition"
      size = moved_bytes(operation, computation)
    if size:
      sizes[what, _where(program, operation)] += times * size
  least = {
    "gather": _MEGABYTE,
    "scatter": _MEGABYTE,
    "transposition": max(10 * _MEGABYTE, total / 100 / _FLOPS_OF_A_MOVE),
    "float32 product": total / 1000,
  }
  found = [
    Finding(what, size, where)
    for (what, where), size in sizes.items()
    if size > least[what]
  ]
  return sorted(found, key=lambda finding: (finding.what, -finding.size))


def _where(program: Program, operation: Operation) -> str:
  """Returns the line that an operation comes from, and its JAX primitive."""
  name = re.search(r'op_name="([^"]*)"', operation.attributes)
  primitive = name[1].rsplit("/", 1)[-1] if name else operation.kind
  return f"{program.source(operation) or operation.name}, {primitive}"


def _operation(name: str, text: str) -> Operation:
  """Parses what stands after the name of an operation."""
  end = _closing(text, 0) + 1 if text[0] == "(" else text.index(" ")
  shapes, rest = text[:end], text[end:].lstrip()
  start = rest.index("(")
  close = _closing(rest, start)
  argument = rest[start + 1 : close]
  return Operation(
    name=name,
    kind=rest[:start],
    shapes=tuple(
      Shape(dtype, _integers(sizes), _integers(layout))
      for dtype, sizes, layout in _SHAPE.findall(shapes)
    ),
    operands=tuple(re.findall(r"%([\w.\-]+)", argument)),
    argument=argument,
    attributes=rest[close + 1 :],
  )


def _closing(text: str, start: int) -> int:
  """Returns the place of the bracket that closes the one at `start`."""
  depth = 0
  for match in re.compile(r"[()]").finditer(text, start):
    depth += 1 if match[0] == "(" else -1
    if not depth:
      return match.start()
  raise ValueError(f"the brackets of {text[:80]!r} do not close")


def _called(operation: Operation) -> list[str]:
  called = _CALLED.findall(operation.attributes)
  if operation.kind in ("call", "async-start"):
    called += _APPLIED.findall(operation.attributes)
  for names in _BRANCHES.findall(operation.attributes):
    called += re.findall(r"[\w.\-]+", names)
  return list(dict.fromkeys(called))


def _integers(text: str) -> tuple[int, ...]:
  return tuple(int(number) for number in text.split(",") if number)


def _numbers(text: str) -> dict[str, int]:
  return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", text)}


def _short(function: str) -> str:
  """Returns the name of a function without those it is defined in."""
  return function.strip('"').split("<locals>.")[-1]


def _axes(name: str, operation: Operation) -> tuple[int, ...]:
  match = re.search(rf"\b{name}\w*=\{{([\d,]*)\}}", operation.attributes)
  return _integers(match[1]) if match else ()


def _window(attributes: str) -> dict[str, list[str]]:
  """Returns the fields of a convolution's window, a value for each axis."""
  match = re.search(r"window=\{([^}]*)\}", attributes)
  fields = match[1].split() if match else []
  pairs = (field.split("=") for field in fields)
  return {key: value.split("x") for key, value in pairs}


def _taps(size: int, outputs: int, window: Mapping[str, str]) -> int:
  """Returns how many products of inputs and taps there are along an axis."""
  low = int(window.get("pad", "0_0").split("_")[0])
  stride, spread, step = (
    int(window.get(key, "1")) for key in ("stride", "lhs_dilate", "rhs_dilate")
  )
  last = (size - 1) * spread
  places = (
    output * stride - low + tap * step
    for tap in range(int(window["size"]))
    for output in range(outputs)
  )
  return sum(0 <= place <= last and place % spread == 0 for place in places)
