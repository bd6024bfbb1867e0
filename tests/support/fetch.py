"""`python -m tests.support.fetch URL`: one GET from inside a namespace; prints [status, body] as JSON."""

import json
import sys

from benchmarks.support import fetch

if __name__ == "__main__":
    print(json.dumps(fetch(sys.argv[1])))
