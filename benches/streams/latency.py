"""Latency of predictions while learning at full rate: `online --listen`, one client that asks for one row after the other on a kept connection until the stream ends."""

import argparse
import http.client
import json
import re
import subprocess
import time

from common import NYSTREAM, Place


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=60000)
    parser.add_argument("--cap", type=int, default=1024)
    parser.add_argument("--pause", type=float, default=0.002, help="seconds between two questions")
    args = parser.parse_args()
    row = {f"x{i}": 0.1 * i for i in range(8)}
    body = json.dumps({"rows": [row]})
    times = []
    with Place() as place:
        # Every row is an atom until the cap: a fixed, small gamma.
        command = [NYSTREAM, "online", "--init-rows", "1000", "--target", "y", "--state", str(place.path / "s"), "--cap", str(args.cap)]
        command += ["--gamma", "1e-6", "--input", f"synth:friedman1?rows={args.rows}&d=8", "--listen", "0", "--format", "json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        port = None
        for line in process.stderr:
            found = re.search(r"127\.0\.0\.1:(\d+)|localhost:(\d+)", line)
            if found:
                port = int(found.group(1) or found.group(2))
                break
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        begun = time.monotonic()
        while process.poll() is None:
            start = time.perf_counter()
            try:
                connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                if process.poll() is not None or time.monotonic() - begun > 600:
                    break
                connection.close()
                time.sleep(0.05)
                continue
            if answer.status == 200:
                times.append(1e3 * (time.perf_counter() - start))
            time.sleep(args.pause)
        report = json.loads(process.stdout.read().rstrip().rsplit("\n", 1)[-1])
    times.sort()
    at = lambda share: times[min(len(times) - 1, int(share * len(times)))]
    print(f"{args.cap} atoms, {report['rows_per_second']:.0f} rows/s learned; {len(times)} answers: p50 {at(0.5):.2f} ms, p90 {at(0.9):.2f}, p99 {at(0.99):.2f}, longest {times[-1]:.1f}")


if __name__ == "__main__":
    main()
