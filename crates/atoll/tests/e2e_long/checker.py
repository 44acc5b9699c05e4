"""Prints what files and database hold, as JSON; the lines from the number in the first argument on."""
import json, os, sqlite3, sys

since = int(sys.argv[1])


def file(path):
    if not os.path.exists(path):
        return []
    text = open(path).read()
    return [(int(n), r) for n, r in (line.split() for line in text[: text.rfind("\n") + 1].splitlines())]


def told(path):
    return open(path).read() if os.path.exists(path) else ""


ack = told("/dev/shm/ack").split()
parts = {"plain": file("/root/plain"), "durable": file("/root/durable")}
if os.path.exists("/root/db"):
    db = sqlite3.connect("/root/db", timeout=60)
    parts["rows"] = db.execute("select n, r from t order by rowid").fetchall()
    parts["integrity"] = db.execute("pragma integrity_check").fetchone()[0]
out = {"ack": int(ack[0]) if ack else 0, "bad": told("/dev/shm/bad")}
out["integrity"] = parts.pop("integrity", "no database")
known = dict(parts["durable"])
for name, lines in parts.items():
    numbers = [n for n, _ in lines]
    first = numbers[0] if numbers else 0
    out[name] = {
        "first": first,
        "last": numbers[-1] if numbers else 0,
        "in_order": numbers == list(range(first, first + len(numbers))),
        "same": all(known.get(n, r) == r for n, r in lines),
    }
out["lines"] = [(n, r) for n, r in parts["durable"] if n >= since]
print(json.dumps(out))
