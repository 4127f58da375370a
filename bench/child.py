"""The other side of `contest.Child`: `python -m bench.child module:Class` makes one object and answers what it is
asked, a line of JSON for a line of JSON, until there is nothing more to read."""

import importlib
import json
import os
import sys


def serve(target: str) -> None:
    """Each question is [method, keywords]; the answer has a result, or an error in one line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print must not get between the answers
    module, name = target.split(":")
    thing = None
    for line in sys.stdin:
        method, keywords = json.loads(line)
        try:
            thing = thing or getattr(importlib.import_module(module), name)()
            answer = {"result": getattr(thing, method)(**keywords)}
        except Exception as problem:  # whatever went wrong in a peer is a row without it, not the end of the bench
            said = str(problem).strip().splitlines() or [""]
            answer = {"error": f"{type(problem).__name__}: {said[0]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
