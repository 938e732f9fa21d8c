#!/usr/bin/env python3
"""Holds every query of the Grafana dashboard against a real Prometheus that scrapes a coordinator.

usage: dashboard.py COORDINATOR_ADDRESS DASHBOARD_JSON FOLDER TOKEN_FILE
Starts `prometheus` (Debian's) on a free loopback port with FOLDER as storage, waits until it has scraped twice,
fills in the dashboard's variables, and asks for each query. Exit code 0 where every query returned data.
"""
import json, pathlib, socket, subprocess, sys, time, urllib.parse, urllib.request


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def query(base: str, expr: str) -> list:
    url = f"{base}/api/v1/query?" + urllib.parse.urlencode({"query": expr})
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)["data"]["result"]


def main() -> None:
    coordinator, dashboard, folder = sys.argv[1], json.load(open(sys.argv[2])), pathlib.Path(sys.argv[3])
    token = pathlib.Path(sys.argv[4])
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: qlora, honor_labels: true, authorization: {{credentials_file: '{token}'}},"
        f" static_configs: [{{targets: ['{coordinator}']}}]}}]\n"
    )
    base = f"http://127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    server = subprocess.Popen(command + [f"--web.listen-address={base[7:]}"], stderr=open(folder / "prometheus.log", "w"))
    try:
        queries = [(p["title"], t["expr"]) for p in dashboard["panels"] for t in p["targets"]]
        wanting, deadline = dict.fromkeys(queries), time.monotonic() + 60
        while wanting and time.monotonic() < deadline:
            for title, expr in list(wanting):
                filled = expr.replace("$__rate_interval", "1m").replace("$job", ".*")
                try:
                    if any(v["value"][1] != "NaN" for v in query(base, filled)):
                        del wanting[(title, expr)]
                except OSError:
                    pass
            time.sleep(0.5)
        for title, expr in wanting:
            print(f"no data: {title}: {expr}")
        print(f"{len(queries) - len(wanting)} of {len(queries)} queries returned data")
        sys.exit(1 if wanting else 0)
    finally:
        server.terminate()
        server.wait()


main()
