"""The Apache Beam pipeline around `vidjax.data.shards.write_shard`."""

from collections.abc import Sequence

try:
  import apache_beam as beam  # pyright: ignore[reportMissingImports]
  from apache_beam.options.pipeline_options import (  # pyright: ignore[reportMissingImports]
    PipelineOptions,
  )
except ImportError as _error:
  raise ImportError(
    "the package apache-beam is missing: pip install 'vidjax[shard]'."
  ) from _error

from vidjax.data.shards import Job, write_shard


class WriteShard(beam.DoFn):
  """Makes one shard of (job, number), and counts what is in it."""

  def process(self, element: tuple[Job, int]) -> None:
    """Makes the shard; what it holds is in the report beside it."""
    for name, count in write_shard(*element).counters.items():
      beam.metrics.Metrics.counter("vidjax", name).inc(count)
    beam.metrics.Metrics.counter("vidjax", "shards").inc()


def run_jobs(
  jobs: Sequence[Job], runner: str, workers: int, flags: Sequence[str]
) -> dict[str, int]:
  """Makes all shards of some jobs.

  Args:
    jobs: the work.
    runner: of Beam, such as DirectRunner, DataflowRunner, FlinkRunner.
    workers: number of workers of the DirectRunner.
    flags: further options of Beam.

  Returns:
    Beam's counters.
  """
  options = [f"--runner={runner}", *flags]
  if runner == "DirectRunner":
    options += [
      f"--direct_num_workers={workers}",
      "--direct_running_mode=multi_threading",
    ]
  elements = [(job, number) for job in jobs for number in range(job.shards)]
  pipeline = beam.Pipeline(options=PipelineOptions(options))
  _ = (
    pipeline
    | beam.Create(elements)
    | beam.Reshuffle()  # the unit of work is one shard
    | beam.ParDo(WriteShard())
  )
  result = pipeline.run()
  result.wait_until_finish()
  counters = result.metrics().query()["counters"]
  return {c.key.metric.name: c.result for c in counters}
