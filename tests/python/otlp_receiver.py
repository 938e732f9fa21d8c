#!/usr/bin/env python3
"""Becomes an OTLP receiver that others wrote (rotel, from PyPI) and prints what it gets to stdout.

usage: otlp_receiver.py GRPC_PORT HTTP_PORT
"""
import os, pathlib, sys

import rotel

agent = pathlib.Path(rotel.__file__).with_name("rotel-agent")
grpc, http = (f"127.0.0.1:{port}" for port in sys.argv[1:3])
shown = ["--debug-log", "traces", "--debug-log", "metrics", "--debug-log-verbosity", "detailed"]
options = ["--otlp-grpc-endpoint", grpc, "--otlp-http-endpoint", http, "--exporter", "blackhole"]
os.execv(agent, [str(agent), "start", *options, *shown])
