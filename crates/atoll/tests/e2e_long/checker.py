"""Tells what files and database hold, as JSON, with the lines from a number on: `once SINCE` on its output, `serve PORT` to who asks.

Served, a line is a question: `look SINCE`, or `ack` for what /dev/shm says alone. Python needs a second to start where it is emulated.
"""
import json, os, socket, sqlite3, sys


def file(path):
    if not os.path.exists(path):
        return []
    text = open(path).read()
    return [(int(n), r) for n, r in (line.split() for line in text[: text.rfind("\n") + 1].splitlines())]


def told(path):
    return open(path).read() if os.path.exists(path) else ""


def look(since):
    ack = told("/dev/shm/ack").split()
    parts = {"plain": file("/root/plain"), "durable": file("/root/durable")}
    if os.path.exists("/root/db"):
        db = sqlite3.connect("/root/db", timeout=60)
        parts["rows"] = db.execute("select n, r from t order by rowid").fetchall()
        parts["integrity"] = db.execute("pragma integrity_check").fetchone()[0]
        db.close()
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
    return json.dumps(out)


def answer(word, *rest):
    if word == "look":
        return look(int(rest[0]))
    return f"{told('/dev/shm/ack').split(' ')[0] or 0} {told('/dev/shm/bad')}"


def serve(port):
    server = socket.create_server(("0.0.0.0", port))
    while True:
        peer, _ = server.accept()
        try:
            with peer:
                # Who asked may be gone, or was a copy's.
                peer.settimeout(20)
                line = peer.makefile().readline().split()
                if line:
                    peer.sendall(answer(*line).encode())
        except OSError:
            pass


if sys.argv[1] == "once":
    print(look(int(sys.argv[2])))
else:
    serve(int(sys.argv[2]))
