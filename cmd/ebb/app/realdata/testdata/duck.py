# Answers a job from standard input with DuckDB. The job: {"dir", "setup": SQL,
# "asks": [{"vars": {name: SQL}, "visitors": {name: SQL}, "tables": {name: SQL}}]}.
# The answer: a list, for each ask {"visitors": {name: "1 2 3"}, "tables": {name: [[...]]}},
# a visitor once and in order. Paths in the SQL are within dir.
import json
import os
import sys

import duckdb

job = json.load(sys.stdin)
os.chdir(job["dir"])
db = duckdb.connect(config={"threads": 1})
db.execute(job["setup"])
answers = []
for ask in job["asks"]:
    for name, value in ask["vars"].items():
        db.execute(f"SET VARIABLE {name} = {value}")
    visitors, tables = {}, {}
    for name, sql in (ask["visitors"] or {}).items():
        (ids,) = db.execute(f"SELECT string_agg(v, ' ' ORDER BY v) FROM (SELECT DISTINCT visitor FROM ({sql}\n)) AS t(v)").fetchone()
        visitors[name] = ids or ""
    for name, sql in (ask["tables"] or {}).items():
        tables[name] = db.execute(sql).fetchall()
    answers.append({"visitors": visitors, "tables": tables})
json.dump(answers, sys.stdout, default=str)
