"""Tells what files and database hold, as JSON, with the lines from a number on: `once SINCE` on its output, `serve PORT` to who asks.

Served, a line is a question: `look SINCE`, or `ack` for what /dev/shm says alone. Python needs a second to start where it is emulated.
"""
import json, os, socket, sqlite3, sys


def told(path):
    return open(path).read() if os.path.exists(path) else ""


def whole(path):
    text = told(path)
    return text[: text.rfind("\n") + 1].splitlines()


def file(path):
    return [(int(n), r) for n, r in (line.split() for line in whole(path))]


def held(numbers):
    first = numbers[0] if numbers else 0
    last = numbers[-1] if numbers else 0
    return {"first": first, "last": last, "in_order": numbers == list(range(first, first + len(numbers)))}


def look(since):
    # At once: what one of them became while the other was read would be taken for a fault.
    ack, ticks = told("/dev/shm/ack"), whole("/dev/shm/ticks")
    parts = {"plain": file("/root/plain"), "durable": file("/root/durable")}
    if os.path.exists("/root/db"):
        db = sqlite3.connect("/root/db", timeout=60)
        parts["rows"] = db.execute("select n, r from t order by rowid").fetchall()
        parts["integrity"] = db.execute("pragma integrity_check").fetchone()[0]
        db.close()
    out = {"ack": int(ack or 0), "ticks": held([int(n) for n in ticks]), "bad": told("/dev/shm/bad")}
    out["integrity"] = parts.pop("integrity", "no database")
    known = dict(parts["durable"])
    for name, lines in parts.items():
        out[name] = held([n for n, _ in lines]) | {"same": all(known.get(n, r) == r for n, r in lines)}
    out["lines"] = [(n, r) for n, r in parts["durable"] if n >= since]
    return json.dumps(out)


def answer(word, *rest):
    if word == "look":
        return look(int(rest[0]))
    return f"{told('/dev/shm/ack') or 0} {told('/dev/shm/bad')}"


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
