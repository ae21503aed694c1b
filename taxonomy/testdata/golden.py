# Made record-v1.hex, with nothing of Ebb in it: the layout is the one that the
# comment in codec.go states. One record a line, in hex.
def uv(n):
    b = b""
    while n >= 128:
        b += bytes([n & 127 | 128]); n >>= 7
    return b + bytes([n])
def v(n): return uv(n << 1 if n >= 0 else (-n << 1) - 1)
def s(x): x = x.encode(); return uv(len(x)) + x
SITE, SOURCE, SPACE, VISITOR, RETURNING, BOT, CONSENT, FIRST, IMPORT, EVENT, MATCH, STATEMENT, SUCCEEDS, COUNTS = (1 << i for i in range(14))
def consent(day, regime, signal, purposes, dests):
    return v(day) + bytes([regime, signal]) + uv(purposes) + (uv(0) if dests is None else uv(len(dests) + 1) + b"".join(map(s, dests)))
key = bytes(range(16))
T = 1795608000123
records = [
    # a page view with everything a browser's event can have
    bytes([1]) + uv(SITE | SOURCE | SPACE | VISITOR | RETURNING | BOT | CONSENT | FIRST | EVENT) + v(T) + s("shop") + s("own") + s("cookie") + key
    + consent(20782, 1, 2, 31, ["dsp-a", "dsp-b"]) + bytes([7] * 16) + uv(300)
    + bytes([9] * 16) + v(T - 1000) + bytes([1]) + s("") + s("https://shop.example/käse?utm_source=x") + s("https://news.example")
    + uv(2) + s("a") + s("1") + s("b") + s("") + uv(1) + s("c:news/sport"),
    # an imported fact
    bytes([1]) + uv(SOURCE | SPACE | VISITOR | RETURNING | CONSENT | IMPORT | EVENT) + v(T) + s("journey") + s("own:demo") + key
    + consent(20782, 3, 6, 31, None) + bytes([5] * 16) + uv(75000)
    + bytes([8] * 16) + v(-1) + bytes([6]) + s("purchase") + s("") + s("") + uv(1) + s("department") + s("GROCERY") + uv(0),
    # a consent that lets nobody have anything
    bytes([2]) + uv(SITE | VISITOR | CONSENT) + v(T) + s("shop") + key + consent(-1, 0, 8, 0, []),
    bytes([3]) + uv(SPACE | VISITOR) + v(T) + s("cookie") + key,                                  # erasure
    bytes([4]) + uv(SPACE | VISITOR) + v(T) + s("own:demo") + key,                                # opt-in
    bytes([5]) + uv(VISITOR | MATCH) + v(T) + key + s("dsp-a") + s("partner-id"),                 # match
    bytes([6]) + uv(SOURCE | VISITOR | STATEMENT) + v(T) + s("crm") + key + bytes([4] * 16) + v(T) + s("l:vip=in") + v(20812),
    bytes([7]) + uv(SOURCE | VISITOR | STATEMENT) + v(T) + s("crm") + key + bytes([3] * 16) + v(T) + s("a:age=45-54") + v(0),
    bytes([8]) + uv(VISITOR | SUCCEEDS) + v(T) + key + bytes([2] * 16),                           # succeeds
    bytes([9]) + uv(COUNTS) + v(T) + uv(2) + s("shop") + bytes([3]) + s("malformed") + uv(12) + s("") + bytes([4]) + s("consent") + uv(1 << 40),
    bytes([10]) + uv(0) + v(T),                                                                   # tick
]
open("record-v1.hex", "w").write("".join(r.hex() + "\n" for r in records))
