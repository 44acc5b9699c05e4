"""Writes, computes, counts and talks; what it has done stands in /dev/shm/ack, what went wrong in /dev/shm/bad."""
import hashlib, os, socket, sqlite3, threading, time


def bad(what):
    with open("/dev/shm/bad", "a") as file:
        file.write(what + "\n")


def neighbour(listener):
    peer, _ = listener.accept()
    while data := peer.recv(8):
        peer.sendall(data)
    os._exit(0)


def tick():
    """Counts; each count stands in /dev/shm/ticks once, which begins anew after some minutes and is whole at any moment."""
    ticks, last = 0, time.monotonic()
    while True:
        time.sleep(0.05)
        now = time.monotonic()
        if now < last:
            bad("the monotonic clock went back")
        last = now
        ticks += 1
        anew = ticks % 4096 == 1
        file = open("/dev/shm/fresh", "w") if anew else file
        print(ticks, file=file, flush=True)
        if anew:
            os.replace("/dev/shm/fresh", "/dev/shm/ticks")


def take_up():
    """After a boot: what was synced counts, and the database gets what it lacks."""
    text = open("/root/durable", "rb").read() if os.path.exists("/root/durable") else b""
    whole = text[: text.rfind(b"\n") + 1]
    os.truncate("/root/durable", len(whole)) if len(text) != len(whole) else None
    for line in whole.decode().splitlines()[-2:]:
        n, r = line.split()
        if not db.execute("select 1 from t where n = ?", (int(n),)).fetchone():
            db.execute("insert into t values (?, ?)", (int(n), r))
    db.commit()
    if os.path.exists("/root/plain"):
        os.remove("/root/plain")
    return int(whole.decode().splitlines()[-1].split()[0]) + 1 if whole else 1


listener = socket.create_server(("127.0.0.1", 0))
if os.fork() == 0:
    neighbour(listener)
peer = socket.create_connection(listener.getsockname())
memory = os.urandom(4 << 20)
digest = hashlib.sha256(memory).digest()
threading.Thread(target=tick, daemon=True).start()
db = sqlite3.connect("/root/db")
# With `full` the last commit may be rolled back after a power cut: the removal of its journal is not on disk yet.
db.execute("pragma synchronous = extra")
db.execute("create table if not exists t (n integer, r text)")
n = take_up()
plain, durable = open("/root/plain", "a"), open("/root/durable", "a")
try:
    while True:
        r = os.urandom(16).hex()
        durable.write(f"{n} {r}\n")
        durable.flush()
        os.fsync(durable.fileno())
        plain.write(f"{n} {r}\n")
        plain.flush()
        db.execute("insert into t values (?, ?)", (n, r))
        db.commit()
        peer.sendall(n.to_bytes(8, "big"))
        echo = b""
        while len(echo) < 8:
            part = peer.recv(8 - len(echo))
            if not part:
                raise ConnectionError("the neighbour is gone")
            echo += part
        if int.from_bytes(echo, "big") != n:
            bad("the neighbour said something else")
        if n % 20 == 0 and hashlib.sha256(memory).digest() != digest:
            bad("the memory holds something else")
        with open("/dev/shm/new", "w") as file:
            file.write(f"{n}")
        os.replace("/dev/shm/new", "/dev/shm/ack")
        n += 1
        time.sleep(0.05)
except BaseException as error:
    bad(repr(error))
