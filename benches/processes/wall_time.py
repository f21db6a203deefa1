#!/usr/bin/env python3
"""Wall times of fits in several processes on one machine, which should be idle. Needs Python alone.

    python3 benches/processes/wall_time.py transport [repetitions]
    python3 benches/processes/wall_time.py hostile [repetitions]
    python3 benches/processes/wall_time.py resume [repetitions] [job]

`transport`: one process of two workers beside two of one, plain and encrypted. `hostile`: two processes with and without 10,000 hostile connections.
`resume`: `kill -9` of a fit at a random moment, and how long the resumed one takes, of the jobs whose names begin with `job`. Each checks that all end with one digest.
"""

import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

BINARY = os.path.abspath(os.environ.get("NYSTREAM", "target/release/nystream"))
FIT = "fit --target y --bandwidth 1x --ridge 1e-6 --split none --select {select} --max-flops 1e18 --out model.nys --format json"
JOBS = {
    "gram": (4_000_000, "gaussian", "uniform", "--solver gram --centers 1000"),
    "gram, much algebra": (1_000_000, "gaussian", "uniform", "--solver gram --centers 3000"),
    "pcg": (3_000_000, "gaussian", "uniform", "--solver pcg --centers 2000 --tolerance 1e-12 --iterations 15"),
    "pcg, few rows": (500_000, "gaussian", "uniform", "--solver pcg --centers 2000 --tolerance 1e-12 --iterations 15"),
    "eigenpro, 2 epochs": (200_000, "laplace", "uniform", "--solver eigenpro --centers 4000 --iterations 2"),
    "eigenpro, 8 epochs": (200_000, "laplace", "uniform", "--solver eigenpro --centers 4000 --iterations 8"),
    "squeak": (1_000_000, "gaussian", "squeak", "--solver gram --centers 800"),
}
PEERS = "--workers 1 --hosts hosts --secret-file secret"


def line(job):
    rows, kernel, select, solver = JOBS[job]
    data = f"--data synth:friedman1?rows={rows}&d=10&seed=3 --kernel {kernel}"
    return f"{FIT.format(select=select)} {data} {solver}".split(" ")


def start(arguments, keep):
    out = subprocess.PIPE if keep else subprocess.DEVNULL
    return subprocess.Popen([BINARY, *arguments], stdout=out, stderr=subprocess.DEVNULL, text=True)


def report(process):
    out, _ = process.communicate()
    if process.returncode not in (0, 3):
        sys.exit(f"ended with {process.returncode}")
    return json.loads(out)


def addresses():
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    found = [each.getsockname() for each in sockets]
    with open("hosts", "w") as file:
        file.writelines(f"{host}:{port}\n" for host, port in found)
    for each in sockets:
        each.close()
    return found


def alone(job):
    return report(start([*line(job), "--workers", "2"], True))


def pair(job, transport, late=0.0, meanwhile=None):
    """Two processes, of which the second comes late."""
    found = addresses()
    own = lambda index: [*line(job), *PEERS.split(" "), "--transport", transport, "--process", str(index)]
    first = start(own(0), True)
    if meanwhile:
        meanwhile(found)
    time.sleep(late)
    second = start(own(1), False)
    result = report(first)
    second.wait()
    return result


def timed(work, *arguments):
    begun = time.monotonic()
    result = work(*arguments)
    return time.monotonic() - begun, result["model_digest"]


def transport(repetitions):
    for job in JOBS:
        seconds, digests = {"one": [], "plain": [], "noise": []}, set()
        for _ in range(repetitions):
            for kind, own in seconds.items():
                took, digest = timed(alone, job) if kind == "one" else timed(pair, job, kind)
                own.append(took)
                digests.add(digest)
        middle = {kind: statistics.median(own) for kind, own in seconds.items()}
        ratios = f"noise / plain {middle['noise'] / middle['plain']:.3f}, two / one {middle['plain'] / middle['one']:.3f}"
        print(job, {kind: f"{value:.2f} s" for kind, value in middle.items()}, ratios, f"{len(digests)} digest", flush=True)


def attack(found, count, counted):
    """Noise, openings cut off, the longest message, another protocol, silence: one each 2.5 ms."""
    noise, silent = random.Random(1), []
    for number in range(count):
        kind = number % 5
        payload = [noise.randbytes(200), b"nystream" + noise.randbytes(20), b"\xff" * 4 + bytes(65536), b"GET / HTTP/1.1\r\n\r\n", b""][kind]
        try:
            each = socket.create_connection(found[number % 2], timeout=1)
            each.settimeout(0.05)
            each.sendall(payload)
            counted["connected"] += 1
            silent.append(each) if kind == 4 and len(silent) < 200 else each.close()
        except OSError:
            counted["turned away"] += 1
        time.sleep(0.0025)


def hostile(repetitions):
    for _ in range(repetitions):
        for count in (0, 10_000):
            counted = {"connected": 0, "turned away": 0}
            thread = []

            def begin(found):
                time.sleep(0.3)
                thread.append(threading.Thread(target=attack, args=(found, count, counted)))
                thread[0].start()

            took, digest = timed(pair, "gram", "noise", 2.7, begin)
            thread[0].join()
            print(f"{count} hostile connections {counted}: {took:.2f} s, {digest[:12]}", flush=True)


def resume(repetitions, beginning=""):
    every, moments = 5.0, random.Random(7)
    for job in (job for job in ("gram", "pcg", "eigenpro, 8 epochs", "squeak") if job.startswith(beginning)):
        own = [*line(job), "--workers", "2", "--checkpoint", "checkpoint", "--checkpoint-every", f"{every}s"]
        whole, digest = timed(lambda: report(start(own, True)))
        for _ in range(repetitions):
            shutil.rmtree("checkpoint", ignore_errors=True)
            begun = time.monotonic()
            killed = start(own, False)
            time.sleep(whole * (0.35 + 0.5 * moments.random()))
            killed.kill()
            killed.wait()
            left = whole - (time.monotonic() - begun)
            took, again = timed(lambda: report(start([*own, "--resume"], True)))
            print(
                f"{job}: {whole:.1f} s undisturbed, {left:.1f} s left, {took:.1f} s resumed: {took - left:.1f} s more, "
                f"{every + 0.1 * left:.1f} allowed, {'one digest' if again == digest else 'ANOTHER DIGEST'}",
                flush=True,
            )


def main():
    kinds = {"transport": transport, "hostile": hostile, "resume": resume}
    if len(sys.argv) < 2 or sys.argv[1] not in kinds:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with open("secret", "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write("0123456789abcdef" * 4)
        kinds[sys.argv[1]](int(sys.argv[2]) if len(sys.argv) > 2 else 1, *sys.argv[3:])
        os.chdir("/")


if __name__ == "__main__":
    main()
