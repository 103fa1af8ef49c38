# ruff: noqa: E501 (the lines of programs are long)
import itertools
import json
import os
import pathlib
import subprocess
import sys

import pytest

from vidjax.tools import hlo

# Compiles for four devices, and prints the texts of the programs.
CHILD = """
import functools, json
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
rows = NamedSharding(mesh, P("d"))
whole = NamedSharding(mesh, P())
ring = [(i, (i + 1) % 4) for i in range(4)]
sharded = functools.partial(
  jax.shard_map, mesh=mesh, in_specs=P("d"), out_specs=P("d")
)

def turn(x):
  step = lambda x, _: (jnp.tanh(jax.lax.ppermute(x, "d", ring)), None)
  return jax.lax.scan(step, x, length=3)[0]

def exchange(x):
  x = jnp.cos(jax.lax.all_gather(x, "d", tiled=True))
  x = jnp.sin(jax.lax.psum_scatter(x, "d", tiled=True))
  return jax.lax.all_to_all(x, "d", 1, 1, tiled=True)

def mean(x):
  return x.mean(axis=0)

def products(x, w):
  x, _ = jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=5)
  return jnp.einsum("bq,kq->bk", x, w)

def picked(x, w):
  return x[w[:, 0].astype(int)] + 1

def program(function, *shapes, shardings):
  arguments = [
    jax.ShapeDtypeStruct(shape, "float32", sharding=sharding)
    for shape, sharding in zip(shapes, shardings)
  ]
  return jax.jit(function).lower(*arguments).compile().as_text()

x, w = (16, 8), (8, 8)
print(json.dumps({
  "turn": program(sharded(turn), x, shardings=[rows]),
  "exchange": program(sharded(exchange), x, shardings=[rows]),
  "mean": program(mean, x, shardings=[rows]),
  "products": program(products, x, w, shardings=[rows, whole]),
  "picked": program(picked, x, w, shardings=[whole, whole]),
}))
"""


@pytest.fixture(scope="module")
def texts():
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "4",
  }
  done = subprocess.run(
    [sys.executable, "-c", CHILD],
    capture_output=True,
    text=True,
    env=environment,
    timeout=120,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


def traffic(text):
  found = hlo.collectives(hlo.parse(text))
  return {kind: (one.count, one.bytes) for kind, one in found.items()}


SHARD = 4 * 8 * 4  # bytes: a quarter of (16, 8) float32


def test_collectives_of_a_loop_are_counted_every_turn(texts):
  assert traffic(texts["turn"]) == {"collective-permute": (3, 3 * SHARD)}


def test_the_larger_of_operands_and_results_counts(texts):
  assert traffic(texts["exchange"]) == {
    "all-gather": (1, 4 * SHARD),
    "all-to-all": (1, SHARD),
    "reduce-scatter": (1, 4 * SHARD),
  }


def test_sums_over_devices(texts):
  assert traffic(texts["mean"]) == {"all-reduce": (1, 8 * 4)}


def test_products_are_those_of_one_device(texts):
  """4 rows each, five turns of 8 x 8 and one more product."""
  assert hlo.flops(hlo.parse(texts["products"])) == 6 * 2 * 4 * 8 * 8


def program(body, before=""):
  """The text of a program with these operations and what stands before."""
  lines = [f"  {line.strip()}" for line in body.splitlines()]
  entry = ["ENTRY %main (p: f32[]) -> f32[] {", *lines, "}"]
  return "\n".join(["HloModule test", "", before, "", *entry])


def test_pairs_of_start_and_done():
  """What is under way holds operands, results and contexts in one tuple."""
  text = program("""\
    %p = bf16[4,8]{1,0} parameter(0)
    %start = (bf16[4,8]{1,0}, bf16[16,8]{1,0:T(8,128)(2,1)}) all-gather-start(%p), dimensions={0}
    %done = bf16[16,8]{1,0} all-gather-done(%start)
    %turn = (bf16[4,8]{1,0}, bf16[4,8]{1,0}, u32[], u32[]) collective-permute-start(%p), source_target_pairs={{0,1}}
    %turned = bf16[4,8]{1,0} collective-permute-done(%turn)
    ROOT %sum = f32[3]{0} all-reduce(%p, /*index=1*/%p), to_apply=%add""")
  assert traffic(text) == {
    "all-gather": (1, 16 * 8 * 2),
    "all-reduce": (1, 2 * 4 * 8 * 2),
    "collective-permute": (1, 4 * 8 * 2),
  }


def test_loops_of_a_tpu_program():
  """Their turns are the limit that the condition compares with."""
  before = """
%body (b: (s32[], f32[2,3])) -> (s32[], f32[2,3]) {
  %b = (s32[], f32[2,3]{1,0}) parameter(0)
  %x = f32[2,3]{1,0} get-tuple-element(%b), index=1
  %y = f32[3,5]{1,0} constant({...})
  ROOT %dot = f32[2,5]{1,0} dot(%x, %y), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%condition (c: (s32[], f32[2,3])) -> pred[] {
  %c = (s32[], f32[2,3]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %n = s32[]{:T(128)} constant(7)
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}
"""
  text = program(
    """\
    %p = (s32[], f32[2,3]{1,0}) parameter(0)
    ROOT %loop = (s32[], f32[2,3]{1,0}) while(%p), condition=%condition, body=%body""",
    before=before,
  )
  assert hlo.flops(hlo.parse(text)) == 7 * 2 * 2 * 5 * 3


def naive_taps(size, outputs, taps, stride, pad, spread, step):
  """Products of inputs and taps along an axis, input by input."""
  inputs = {i * spread for i in range(size)}
  return sum(
    output * stride - pad + tap * step in inputs
    for output, tap in itertools.product(range(outputs), range(taps))
  )


@pytest.mark.parametrize(
  ("size", "outputs", "taps", "stride", "pad", "spread", "step"),
  [
    (14, 14, 3, 1, 1, 1, 1),
    (14, 7, 3, 2, 1, 1, 1),
    (7, 14, 3, 1, 1, 2, 1),
    (9, 9, 3, 1, 2, 1, 2),
    (12, 12, 12, 11, 0, 12, 1),  # how a TPU writes a batch of products
  ],
)
def test_taps_on_padding_and_holes_do_not_count(
  size, outputs, taps, stride, pad, spread, step
):
  window = (
    f"size={taps}x1 stride={stride}x1 pad={pad}_{pad}x0_0 "
    f"lhs_dilate={spread}x1 rhs_dilate={step}x1"
  )
  text = program(f"""\
    %x = bf16[2,{size},3,8]{{3,2,1,0}} parameter(0)
    %w = bf16[{taps},1,4,6]{{3,2,1,0}} parameter(1)
    ROOT %y = bf16[2,{outputs},3,6]{{3,2,1,0}} convolution(%x, %w), window={{{window}}}, dim_labels=b01f_01io->b01f, feature_group_count=2""")
  want = naive_taps(size, outputs, taps, stride, pad, spread, step)
  # 2 clips, 3 columns, 6 outputs that see 4 of the 8 inputs each.
  assert hlo.flops(hlo.parse(text)) == 2 * want * 2 * 3 * 6 * 4


def test_a_batch_of_products_in_the_form_of_a_convolution():
  """(12, 196, 256) by (12, 256, 64): one product for each of the 12."""
  text = program("""\
    %x = bf16[12,196,256]{2,1,0} parameter(0)
    %w = bf16[12,256,64]{2,1,0} parameter(1)
    ROOT %y = bf16[12,196,64]{2,1,0} convolution(%x, %w), window={size=12 stride=11 lhs_dilate=12}, dim_labels=0bf_0io->0bf""")
  assert hlo.flops(hlo.parse(text)) == 2 * 12 * 196 * 256 * 64


MOVES = {
  "f32[4,6]{1,0:T(8,128)} copy(%p)": 0,
  "f32[4,6]{1,0:S(1)} copy(%p)": 0,
  "f32[4,6]{0,1} copy(%p)": 96,
  "f32[6,4]{1,0} transpose(%p), dimensions={1,0}": 96,
  "f32[6,4]{0,1} transpose(%p), dimensions={1,0}": 0,  # nothing moves
  "f32[4,1,6]{2,0,1} transpose(%q), dimensions={1,0,2}": 0,
  "f32[6,4]{0,1} bitcast(%p)": 0,
}


@pytest.mark.parametrize("operation", MOVES)
def test_what_moves(operation):
  text = program(f"""\
    %p = f32[4,6]{{1,0}} parameter(0)
    %q = f32[1,4,6]{{2,1,0}} parameter(1)
    ROOT %y = {operation}""")
  computation = hlo.parse(text).computations["main"]
  moved = hlo.moved_bytes(computation["y"], computation)
  assert moved == MOVES[operation]


def test_bytes_of_dtypes():
  text = program("""\
    %p = (pred[5], u8[5], bf16[3,2]{1,0}, f32[], s4[8], f8e4m3fn[4], token[]) parameter(0)
    ROOT %y = f64[0,3]{1,0} custom-call(%p)""")
  computation = hlo.parse(text).computations["main"]
  sizes = [shape.bytes for shape in computation["p"].shapes]
  assert sizes == [5, 5, 12, 4, 4, 4, 0]
  assert computation["p"].bytes == sum(sizes)
  assert computation["y"].bytes == 0


def test_a_small_gather_is_no_finding(texts):
  program = hlo.parse(texts["picked"])
  kinds = [operation.kind for operation, _, _ in program.run()]
  assert kinds.count("gather") == 1
  assert hlo.findings(program, "bfloat16") == []


TABLES = f"""
FileNames
1 "/elsewhere/jax.py"
2 "{pathlib.Path(hlo.__file__).parents[1] / "ops" / "leap.py"}"

FunctionNames
1 "take"
2 "leap.<locals>.pair"

FileLocations
1 {{file_name_id=1 function_name_id=1 line=10 end_line=10 column=1 end_column=2}}
2 {{file_name_id=2 function_name_id=2 line=20 end_line=20 column=1 end_column=2}}

StackFrames
1 {{file_location_id=2 parent_frame_id=1}}
2 {{file_location_id=1 parent_frame_id=2}}
3 {{file_location_id=1 parent_frame_id=1}}
"""


def test_what_should_not_be_there():
  side = 2048
  size = side * side
  text = program(
    f"""\
    %p = f32[{side},{side}]{{1,0}} parameter(0)
    %b = bf16[{side},{side}]{{1,0}} parameter(1)
    %i = s32[{side},1]{{1,0}} parameter(2)
    %gather.1 = f32[{side},{side}]{{1,0}} gather(%p, %i), metadata={{op_name="jit(f)/take/gather" stack_frame_id=2}}
    %gather.2 = f32[{side}]{{0}} gather(%p, %i), metadata={{op_name="jit(f)/take/gather" stack_frame_id=2}}
    %copy = f32[{side},{side}]{{0,1}} copy(%p), metadata={{op_name="jit(f)/swap" stack_frame_id=3}}
    %fine = bf16[{side},{side}]{{1,0}} dot(%b, %b), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
    ROOT %wide = f32[{side},{side}]{{1,0}} dot(%p, %p), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}, metadata={{op_name="jit(f)/dot_general"}}""",
    before=TABLES,
  )
  parsed = hlo.parse(text)
  where = "vidjax/ops/leap.py:20 (pair), gather"
  assert hlo.findings(parsed, "bfloat16") == [
    hlo.Finding("float32 product", 2 * side**3, "wide, dot_general"),
    hlo.Finding("gather", 4 * size + 4 * side, where),
    hlo.Finding("transposition", 4 * size, "/elsewhere/jax.py:10 (take), swap"),
  ]
  kinds = [finding.what for finding in hlo.findings(parsed, "float32")]
  assert kinds == ["gather", "transposition"]
  found = str(hlo.findings(parsed, "bfloat16")[0])
  assert found == "float32 product: 17.2 GFLOP at wide, dot_general"


def test_other_texts():
  with pytest.raises(ValueError, match=r"no ENTRY computation"):
    hlo.parse("module @jit_f {}")
