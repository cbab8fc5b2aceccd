"""The other end of remote.py: a process that holds one engine and does what it is told.

Started with the interpreter of the engine's environment, of which it imports the engine alone:

    python serve.py ENGINE DIRECTORY VARIANT THREADS

A line of JSON on stdin is a call, {"method": ..., "arguments": [...]}; a line on stdout is the reply,
{"value", "seconds", "cpu_s"}, timed here around the engine's method. An engine without the method is an
{"error"}. What libraries print goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def main() -> None:
    name, directory, variant, threads = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path.insert(0, str(HERE / "engines"))
    reply, engine = timed(lambda: importlib.import_module(name).load(Path(directory), variant, int(threads)))
    write(replies, reply)
    for line in sys.stdin:
        call = json.loads(line)
        write(replies, answer(engine, call["method"], call["arguments"]))


def answer(engine: Any, method: str, arguments: list[Any]) -> dict[str, Any]:
    """Run one call. Two are the process's own: its peak memory, and writing logits, which takes a path."""
    if method == "peak_bytes":
        return {"value": peak_bytes(), "seconds": 0.0, "cpu_s": 0.0}
    if not hasattr(engine, method):
        return {"error": f"{type(engine).__name__} has no {method}"}
    if method == "logits":
        arguments = [arguments[0], Path(arguments[1])]
    reply, value = timed(lambda: getattr(engine, method)(*arguments))
    return reply | {"value": value}


def timed(work: Any) -> tuple[dict[str, Any], Any]:
    begin, cpu_begin = time.perf_counter(), time.process_time()
    value = work()
    seconds, cpu_s = time.perf_counter() - begin, time.process_time() - cpu_begin
    return {"value": None, "seconds": seconds, "cpu_s": cpu_s}, value


def peak_bytes() -> int:
    """The highest resident size of this process so far (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def write(replies: Any, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
