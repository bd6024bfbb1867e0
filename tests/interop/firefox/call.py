"""Calls of a page in Firefox, as many as are asked for, a line of JSON each: ../README.md."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.interop.firefox.marionette import Firefox, executable


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--setup", default="actpass")
    parser.add_argument("--end", default="close")
    parser.add_argument("--calls", type=int, default=1)
    words = parser.parse_args()
    script = (Path(__file__).parent / "call.js").read_text()
    with Firefox(executable() or sys.exit("no Firefox")) as firefox:
        firefox.open(words.url)
        for _ in range(words.calls):
            facts = firefox.run(script, words.url, words.setup, words.end)
            print(json.dumps({"client": f"Firefox {firefox.version}"} | facts), flush=True)


if __name__ == "__main__":
    main()
