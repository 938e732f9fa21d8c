"""HyperQueue and this coordinator in turn, on one machine, with the same process for each job.

    pip install hyperqueue==0.27.0
    cargo build --release --bin qlora-coordinator && cargo bench --bench coordinator --no-run
    python tests/benches/coordinator/beside.py BENCH [JOBS] [ROUNDS]

BENCH is the program that cargo has built (`target/release/deps/coordinator-*`). HyperQueue runs as a server with a worker of
2 CPUs in one process, and its client in this one; it keeps no journal. It has JOBS as one job of as many tasks, and a fifth of
them as separate jobs. The coordinator has that fifth too, 2 workers and one submitter; every submission and every end is
durable. Each prints one JSON object a line; the table at the end has the median of the rounds.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
LATENCIES = 200


def serve(folder):
    from hyperqueue.cluster import LocalCluster, WorkerConfig

    cluster = LocalCluster(folder)
    cluster.start_worker(WorkerConfig(cores=2))
    print("up", flush=True)
    sys.stdin.read()
    # The cluster stops its own processes with this one.
    os._exit(0)


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for(stamps, lines, pause):
    while not stamps.exists() or stamps.read_bytes().count(b"\n") < lines:
        time.sleep(pause)


def percentile(times, share):
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


def hyperqueue(jobs):
    from hyperqueue import Job
    from hyperqueue.client import Client

    with tempfile.TemporaryDirectory() as folder:
        stamps, program = pathlib.Path(folder, "stamps"), f"{folder}/stamp"
        subprocess.run(["cc", "-O2", "-static", "-o", program, HERE / "stamp.c"], check=True)
        server = subprocess.Popen([sys.executable, __file__, "--serve", f"{folder}/server"], stdin=-1, stdout=-1, cwd=folder)
        server.stdout.readline()
        client = Client(f"{folder}/server")

        def tasks(many):
            job = Job(default_workdir=folder)
            for number in range(many):
                job.program([program, str(stamps), str(number)], stdout=None, stderr=None)
            return job

        client.submit(tasks(1))
        wait_for(stamps, 1, 0.01)
        waits = []
        for number in range(LATENCIES):
            begin = time.time_ns()
            client.submit(tasks(1))
            wait_for(stamps, number + 2, 0.0005)
            waits.append((int(stamps.read_text().splitlines()[-1].split()[0]) - begin) / 1e6)
            time.sleep(0.03)
        measured = {"p50_ms": percentile(waits, 0.5), "p99_ms": percentile(waits, 0.99)}
        # Submitted at once as one job of many tasks, and one by one as many jobs.
        for name, submissions, each in [("one_job", 1, jobs), ("separate_jobs", jobs // 5, 1)]:
            stamps.unlink()
            before, begin = cpu_seconds(server.pid), time.time()
            for _ in range(submissions):
                client.submit(tasks(each))
            wait_for(stamps, submissions * each, 0.02)
            many = submissions * each
            measured[f"{name}_per_s"] = many / (time.time() - begin)
            measured[f"{name}_cpu_ms"] = (cpu_seconds(server.pid) - before) * 1000 / many
        server.stdin.close()
        server.wait(10)
        return measured


def ours(bench, jobs):
    # As many separate jobs, workers and submitters as HyperQueue has.
    load = [f"jobs={jobs // 5}", "workers=2", "submitters=1", f"single={LATENCIES}"]
    ran = subprocess.run([bench, "stamp", *load], capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    rows = {row["what"]: row["value"] for row in rows if "what" in row}
    return {
        "p50_ms": rows["submit to start of a process, idle, p50"],
        "p99_ms": rows["submit to start of a process, idle, p99"],
        "separate_jobs_per_s": rows["jobs"],
        "separate_jobs_cpu_ms": rows["CPU time of the coordinator a job"],
    }


def main():
    bench = sys.argv[1]
    jobs = int(sys.argv[2]) if len(sys.argv) > 2 else 5000
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    all_measured = {"HyperQueue": [], "this coordinator": []}
    for _ in range(rounds):
        for name, measure in [("HyperQueue", lambda: hyperqueue(jobs)), ("this coordinator", lambda: ours(bench, jobs))]:
            measured = measure()
            print(json.dumps({"of": name, "load": os.getloadavg()[0], **measured}), flush=True)
            all_measured[name].append(measured)
    print("\n| | " + " | ".join(all_measured) + " |\n|---|---|---|")
    for key in all_measured["HyperQueue"][0]:
        found = [[run[key] for run in runs if key in run] for runs in all_measured.values()]
        print(f"| {key} | " + " | ".join(f"{statistics.median(runs):.2f}" if runs else "" for runs in found) + " |")


if __name__ == "__main__":
    serve(sys.argv[2]) if sys.argv[1] == "--serve" else main()
