"""One call of a page in Firefox: ../README.md says what it is asked, what it does and what it prints."""

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
    parser.add_argument("--restart", action="store_true")
    words = parser.parse_args()
    script = (Path(__file__).parent / "call.js").read_text()
    with Firefox(executable() or sys.exit("no Firefox")) as firefox:
        firefox.open(words.url)
        facts = firefox.run(script, words.url, words.setup, words.end, words.restart)
        print(json.dumps({"client": f"Firefox {firefox.version}"} | facts))


if __name__ == "__main__":
    main()
