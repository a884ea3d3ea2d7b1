"""The data engine beside a floor, an ideal and other engines, under the same weather: `python -m benchmarks.engine`.

Every run is a fresh process against a fresh stub server; the engines take turns within a repeat. See docs/benchmarks.md.
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

from benchmarks.engines import report
from benchmarks.engines.drive import CASES, ENGINES, PEERS, Case, EngineFailed, Result, install, run
from benchmarks.engines.scenarios import SCENARIOS
from benchmarks.engines.weather import Settings


def main() -> None:
    """Measure, print the section, and write what was asked for."""
    given = _arguments()
    if given.install_peers:
        for failure in install(given.install_peers.resolve()):
            print(f"not installed: {failure}")
        return
    settings = Settings(seed=given.seed)
    if given.quick:
        settings = replace(settings, latency=40, slow=400)
    scale = 0.008 if given.quick else given.scale
    cases = [Case(max(20, round(case.rows * scale)), case.steps, case.slots) for case in CASES if case.name in given.cases]
    results, failures = measure(given.engines, cases, settings, 1 if given.quick else given.repeats, given.peers, given.pin)
    scenarios = {}
    for name in given.scenarios:
        scenarios[name] = SCENARIOS[name](scale, given.pin)
        print(f"{name}: {scenarios[name]['asked']} -> {scenarios[name]['measured']}", flush=True)
    if given.results:
        given.results.write_text(json.dumps({"results": results, "failures": failures, "scenarios": scenarios}, indent=1), encoding="utf-8")
    if given.plot and results:
        report.draw(results, given.plot)
    text = report.section(results, failures, scenarios, given.plot.name if given.plot else None)
    print(text)
    if given.write:
        report.write(given.write, text)


def measure(engines: list[str], cases: list[Case], settings: Settings, repeats: int, peers: Path | None, pinned: bool) -> tuple[list[Result], dict[str, str]]:
    """Results of all repeats, and why an engine has none; one that failed is not tried again."""
    results: list[Result] = []
    failures: dict[str, str] = {}
    for repeat in range(repeats):
        for case in cases:
            for engine in engines:
                if engine in failures:
                    continue
                load = os.getloadavg()[0]
                try:
                    found = run(engine, case, settings, peers=peers, pinned=pinned) | {"repeat": repeat, "load": load}
                except EngineFailed as error:
                    failures[engine] = str(error)
                    continue
                results.append(found)
                print(
                    f"{repeat} {case.name} {engine}: {found['rate']:.0f}/s, {found['of_ideal']:.2f} of the ideal, "
                    f"{found['cpu_per_1000']:.2f} CPU s per 1,000 (stub {found['stub_cpu_per_1000']:.2f}), {found['peak_mb']:.0f} MB",
                    flush=True,
                )
    return results, failures


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for case in CASES]
    parser.add_argument("--engines", nargs="*", choices=[*ENGINES, *PEERS], default=["floor", "ours"], help="default: floor and ours")
    parser.add_argument("--cases", nargs="*", choices=names, default=names)
    parser.add_argument("--scenarios", nargs="*", choices=list(SCENARIOS), default=[], help="runs of our engine under faults")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="times the number of rows")
    parser.add_argument("--quick", action="store_true", help="a few seconds: few rows, a fast server, one repeat")
    parser.add_argument("--seed", type=int, default=0, help="of the weather")
    parser.add_argument("--peers", type=Path, help="folder with the peers' environments")
    parser.add_argument("--install-peers", type=Path, metavar="DIR", help="make the peers' environments there, and end")
    parser.add_argument("--no-pin", dest="pin", action="store_false", help="leave server and engine to the scheduler, not each to one core")
    parser.add_argument("--results", type=Path, help="JSON file of all results")
    parser.add_argument("--plot", type=Path, help="SVG or PNG file")
    parser.add_argument("--write", type=Path, metavar="PAGE", help=f"page whose part between {report.BEGIN} and {report.END} is replaced")
    given = parser.parse_args()
    given.peers = given.peers.resolve() if given.peers else None
    return given


if __name__ == "__main__":
    main()
