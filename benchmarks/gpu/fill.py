#!/usr/bin/env python
"""Turns minutes of a GPU into records: runs the commands of a plan side by side until the time is over.

    python -m studies.cells gpu_core gpu_short | python benchmarks/gpu/fill.py --seconds 540 --folder runs
    python -m lstsd_hf.experiments collect runs/gpu.jsonl studies/records/gpu.jsonl

A command is a line for run_glue.py. Its runs come in the order of the plan; results of --output_dir runs/NAME go to
NAME.jsonl. One small model leaves a GPU idle most of the time, so the number of processes grows while they are at work,
for as long as more of them make more optimizer steps a second. A finished run is one line, written at once, so that
nothing is lost if this program is killed. A run that is in such a file or in the records already is skipped, and none
is started that would not end in time.
"""

import argparse
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
# Before torch is imported, here and in the processes: each has one core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A window in which speed is measured, and the least gain for which more processes are worth having.
WINDOW_SECONDS, LEAST_GAIN = 6.0, 1.05
MARGIN = 1.1
Key = tuple[str, ...]


# ---- The plan ----


@dataclass(frozen=True)
class Job:
    """One run of a plan.

    Attributes:
        arguments: The command line that it belongs to, without the program.
        position: Its place among the command's runs.
        file: Name of the file for its result.
        key: What tells it from other runs, also with another version of transformers.
        kind: Runs of the same kind take equally long for each step.
        steps: Optimizer steps.
        title: For people.
    """

    arguments: str
    position: int
    file: str
    key: Key
    kind: str
    steps: int
    title: str


def read_plan(lines: Iterator[str]) -> list[Job]:
    """The runs of some command lines, each run once."""
    from lstsd_hf.glue.cli import describe, parse, plan

    jobs: dict[Key, Job] = {}
    for line in filter(None, map(str.strip, lines)):
        arguments = line.removeprefix("python run_glue.py ")
        parsed = parse(arguments.split())
        # runs/NAME, or a folder in there.
        file = Path(parsed.output_dir or "runs").parts[:2][-1] + ".jsonl"
        for position, item in enumerate(plan(parsed)):
            run = item.run
            key = key_of({"config": run.config, "seed": run.args.seed, "data": {"digest": run.data_digest}})
            kind = f"{run.task.name} {run.model_name_or_path}"
            jobs.setdefault(key, Job(arguments, position, file, key, kind, run.plan.max_steps, describe(run)))
    return list(jobs.values())


def key_of(result: dict) -> Key:
    """What tells a run from others: its settings, data and seed."""
    from lstsd_hf.experiments.records import without_defaults

    config = without_defaults(result["config"])
    return json.dumps(config, sort_keys=True), result["data"]["digest"], str(result["seed"])


def read_finished(paths: Sequence[Path]) -> set[Key]:
    """The runs in files of results or records."""
    from lstsd_hf.experiments.records import read_results

    return {key_of(result) for _, result in read_results([path for path in paths if is_filled(path)])}


def is_filled(path: Path) -> bool:
    """Whether a file is there and has a line: killed at its first one, this program leaves it empty."""
    return path.exists() and path.stat().st_size > 0


def drop_torn_line(path: Path) -> None:
    """Takes away what a killed program left of a line."""
    if path.exists():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))


# ---- One process ----


def work(jobs: Connection, life: Connection, steps, slot: int) -> None:
    """Executes the jobs that come in and sends their results back."""
    threading.Thread(target=_die_with, args=(life,), daemon=True).start()
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    _be_quiet()
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from lstsd_hf.glue.cli import parse, plan
    from lstsd_hf.runner.training import execute

    def count(*_) -> None:
        steps[slot] += 1

    register_optimizer_step_post_hook(count)
    plans: dict[str, tuple[list, Path]] = {}
    while True:
        job = jobs.recv()
        try:
            if job.arguments not in plans:
                parsed = parse(job.arguments.split())
                plans[job.arguments] = plan(parsed), Path(parsed.run.cache_dir)
            items, cache = plans[job.arguments]
            run = items[job.position].run
            # What is saved of the model is not kept.
            with tempfile.TemporaryDirectory() as folder:
                jobs.send(execute(run, Path(folder) / "run", resume=False, overwrite=False, cache=cache))
        except Exception as error:
            jobs.send(f"{type(error).__name__}: {error}")


def _be_quiet() -> None:
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.getLogger("lstsd_hf").setLevel(logging.WARNING)


def _die_with(life: Connection) -> None:
    """Ends this process with the program that started it."""
    try:
        life.recv()
    except EOFError:
        os._exit(1)


@dataclass
class Worker:
    """A process and what it is at.

    Attributes:
        process: The process.
        jobs: To and from it.
        life: Closed with this program.
        slot: Its place among the counted steps.
        job: Its run; `None` when it is idle.
        since: When the run was sent.
    """

    process: multiprocessing.Process
    jobs: Connection
    life: Connection
    slot: int
    job: Job | None = None
    since: float = 0.0


# ---- All of them ----


@dataclass
class Pool:
    """Keeps as many processes at work as pays off.

    Args:
        pending: Runs in their order.
        folder: For the files with a line of each finished run.
        seconds: Until all must have ended.
        workers: How many processes; `None` finds it.
        start: When the time began.
    """

    pending: list[Job]
    folder: Path
    seconds: float
    workers: int | None
    start: float
    failed: list[str] = field(default_factory=list)
    finished: int = 0
    most_at_once: int = 0

    def __post_init__(self):
        cores = os.cpu_count() or 1
        self._most = self.workers or cores
        self._target = self.workers or min(cores, max(2, cores // 4))
        self._best = 0.0
        self._is_growing = self.workers is None
        self._context = multiprocessing.get_context("forkserver")
        # A process then starts with everything imported, but without a device.
        self._context.set_forkserver_preload(["lstsd_hf.glue.cli", "lstsd_hf.experiments.report"])
        self._steps = self._context.RawArray("Q", self._most)
        self._pool: dict[int, Worker] = {}
        self._seconds_per_step: dict[str, float] = {}
        self._window: tuple[float, int] | None = None

    def run(self) -> None:
        """Works until nothing is left that fits into the time."""
        try:
            while True:
                self._hire()
                self._give_out()
                busy = [worker for worker in self._pool.values() if worker.job is not None]
                left = self.start + self.seconds - time.monotonic()
                if not busy or left <= 0:
                    break
                for ready in wait([worker.jobs for worker in busy], timeout=min(left, 0.5)):
                    self._take(next(worker for worker in busy if worker.jobs is ready))
                self._grow()
        finally:
            for worker in self._pool.values():
                worker.process.kill()

    def _hire(self) -> None:
        for slot in range(min(self._target, len(self._pool) + len(self.pending))):
            if slot not in self._pool:
                ours, theirs = self._context.Pipe()
                life, watched = self._context.Pipe()
                process = self._context.Process(target=work, args=(theirs, watched, self._steps, slot), daemon=True)
                process.start()
                theirs.close()
                watched.close()
                self._pool[slot] = Worker(process, ours, life, slot)
                self.most_at_once = max(self.most_at_once, len(self._pool))

    def _give_out(self) -> None:
        for worker in list(self._pool.values()):
            if worker.job is not None:
                continue
            job = next((job for job in self.pending if self._fits(job)), None) if worker.slot < self._target else None
            if job is not None:
                self.pending.remove(job)
                worker.job, worker.since = job, time.monotonic()
                worker.jobs.send(job)

    def _fits(self, job: Job) -> bool:
        known = self._seconds_per_step
        # Of another kind: as long as the slowest so far.
        each = known.get(job.kind, max(known.values(), default=0.0))
        return time.monotonic() + MARGIN * each * job.steps < self.start + self.seconds

    def _take(self, worker: Worker) -> None:
        from lstsd_hf.experiments.records import without_defaults

        job, worker.job = worker.job, None
        try:
            result = worker.jobs.recv()
        except EOFError:
            result = "The process ended."
            self._pool.pop(worker.slot)
        if isinstance(result, str):
            self.failed.append(f"{job.title}: {result}")
            print(f"Failed: {self.failed[-1]}", flush=True)
            return
        result["config"] = without_defaults(result["config"])
        with (self.folder / job.file).open("a") as file:
            file.write(json.dumps(result, separators=(",", ":")) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.finished += 1
        taken = time.monotonic() - worker.since
        self._seconds_per_step[job.kind] = max(self._seconds_per_step.get(job.kind, 0.0), taken / job.steps)
        score = 100 * result["last_epoch"][f"eval_{result['metrics'][0]}"]
        print(f"{time.monotonic() - self.start:6.0f} s  {score:6.2f}  {taken:6.1f} s  {job.title[:100]}", flush=True)

    def _grow(self) -> None:
        """More processes for as long as they make more steps together."""
        if not self._is_growing:
            return
        now, total = time.monotonic(), sum(self._steps)
        if self._window is None:
            if all(self._steps[slot] for slot in range(self._target) if slot in self._pool):
                self._window = now, total
            return
        since, before = self._window
        if now - since < WINDOW_SECONDS:
            return
        speed = (total - before) / (now - since)
        print(f"{now - self.start:6.0f} s  {len(self._pool)} processes: {speed:.0f} steps/s", flush=True)
        self._window = None
        step = max(1, self._most // 4)
        if speed < LEAST_GAIN * self._best:
            self._is_growing = False
            if speed < self._best:
                self._target = max(1, self._target - step)
        else:
            self._best = max(self._best, speed)
            self._is_growing = self._target < self._most
            self._target = min(self._most, self._target + step) if self._is_growing else self._target


def fill_caches(jobs: Sequence[Job]) -> None:
    """Tokenizes once what all processes will read."""
    from lstsd_hf.glue.cli import parse, plan

    for job in {job.kind: job for job in jobs}.values():
        parsed = parse(job.arguments.split())
        run = plan(parsed)[job.position].run
        run.prepare(Path(parsed.run.cache_dir))


def print_tables(paths: Sequence[Path]) -> None:
    """A line for each method and setting in files of results."""
    from lstsd_hf.experiments.grouping import group_runs
    from lstsd_hf.experiments.records import read_results
    from lstsd_hf.experiments.report import section_rows, shown_spread

    # Files hold runs of different data.
    for section in (section for path in paths for section in group_runs(read_results([path]))):
        print(f"\n{section.title}")
        for row in section_rows(section):
            difference = "" if row.difference is None else f"{row.difference.mean:+6.2f} (p {row.adjusted_p:.3f})"
            print(f"  {row.label[:70]:70} n={row.seeds:<3} {shown_spread(row.last, 2):16} {difference}")


def main(arguments: Sequence[str]) -> int:
    """Fills the time; 1 if a run failed."""
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", nargs="?", type=argparse.FileType(), default=sys.stdin, help="commands; default: stdin")
    parser.add_argument("--seconds", type=float, required=True, help="until the last run must have ended")
    parser.add_argument("--folder", type=Path, required=True, help="for the files of results")
    parser.add_argument("--records", type=Path, nargs="*", default=[], help="more files whose runs are skipped")
    parser.add_argument("--workers", type=int, help="processes; default: found at the beginning")
    options = parser.parse_args(arguments)
    _be_quiet()
    options.folder.mkdir(parents=True, exist_ok=True)
    jobs = read_plan(options.plan)
    outputs = [options.folder / name for name in dict.fromkeys(job.file for job in jobs)]
    for path in outputs:
        drop_torn_line(path)
    finished = read_finished([*outputs, *options.records])
    pending = [job for job in jobs if job.key not in finished]
    print(f"{len(jobs)} runs planned, {len(jobs) - len(pending)} finished before", flush=True)
    fill_caches(pending)
    print(f"{time.monotonic() - start:6.0f} s  begin", flush=True)
    pool = Pool(list(pending), options.folder, options.seconds, options.workers, start)
    pool.run()
    print_tables([path for path in outputs if is_filled(path)])
    ended = f"{pool.finished} of {len(pending)} runs in {time.monotonic() - start:.0f} s"
    print(f"\n{ended} by {pool.most_at_once} processes, {len(pool.failed)} failed")
    return int(bool(pool.failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
