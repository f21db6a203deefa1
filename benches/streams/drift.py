"""Recovery from drift, and false alarms: `online --drift` on made streams whose function changes abruptly or rotates.

Streams are functions of their seed and each prefix of one is a stream: a run of CHANGE + k rows says what the last rows lost and how often there was an alarm k rows after the change.
"""

import argparse

from common import Place, print_table

STREAM = "synth:friedman1?d=8&seed={seed}&rows={rows}"


def run(place, stream, window, *options):
    common = ["--init-rows", 1000, "--target", "y", "--cap", 256, "--hindsight", 10, "--loss-window", window]
    report = place.online("s", "--input", stream, *common, *options)
    return report["prequential"]["window_loss"], report["drift_alarms"]


def abrupt(place, seeds, change, window, actions):
    after = [500, 1000, 1500, 2000, 3000, 5000]
    lines = []
    for action in actions:
        for seed in range(1, seeds + 1):
            stream = STREAM.format(seed=seed, rows="{rows}") + f"&drift=abrupt:{change}"
            before, early = run(place, stream.format(rows=change), 2000, "--drift", action)
            found = [run(place, stream.format(rows=change + k), window, "--drift", action) for k in after]
            cells = [f"{loss / before:.2f}x, {alarms - early}" for loss, alarms in found]
            recovered = next((k for k, (loss, _) in zip(after, found) if loss <= 1.5 * before), "-")
            lines.append([action, seed, f"{before:.4f}, {early}", *cells, recovered])
    print(f"Function changes at row {change}: loss of the last {window} rows over that of the 2,000 before the change, and alarms since.\n")
    print_table(["--drift", "seed", "before, alarms", *[f"{k} rows later" for k in after], "below 1.5x after"], lines)


def rotating(place, seeds, rows, periods):
    lines = []
    for seed in range(1, seeds + 1):
        still, _ = run(place, STREAM.format(seed=seed, rows=rows), rows // 2)
        for period in periods:
            stream = STREAM.format(seed=seed, rows=rows) + f"&drift=rotating:{period}"
            for options in (["--drift", "none"], ["--drift", "reset"], ["--drift", "adapt"], ["--forgetting", 0.9995], ["--forgetting", 0.998]):
                loss, alarms = run(place, stream, rows // 2, *options)
                lines.append([period, seed, " ".join(map(str, options)), f"{loss:.4f} ({loss / still:.2f}x)", alarms])
    print(f"Two features rotate: loss of the last {rows // 2} of {rows} rows, over that of the stream that stands still.\n")
    print_table(["period", "seed", "options", "loss", "alarms"], lines)


def stationary(place, seeds, rows):
    lines = [[seed, rows, run(place, STREAM.format(seed=seed, rows=rows), 1000, "--drift", "report")[1]] for seed in range(1, seeds + 1)]
    print_table(["seed", "stationary rows", "false alarms"], lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--change", type=int, default=20000)
    parser.add_argument("--window", type=int, default=500)
    parser.add_argument("--actions", default="reset,adapt,forget,forget:0.01,report")
    parser.add_argument("--periods", default="100000,1000000")
    parser.add_argument("--rows", type=int, default=100000, help="of a stationary stream")
    parser.add_argument("--only", default="abrupt,rotating,stationary")
    args = parser.parse_args()
    parts = args.only.split(",")
    with Place() as place:
        if "abrupt" in parts:
            abrupt(place, args.seeds, args.change, args.window, args.actions.split(","))
        if "rotating" in parts:
            rotating(place, args.seeds, 2 * args.change, [int(period) for period in args.periods.split(",")])
        if "stationary" in parts:
            stationary(place, args.seeds, args.rows)


if __name__ == "__main__":
    main()
