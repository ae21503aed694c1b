-- The window begins before what is kept.
SELECT visitor FROM bought WHERE department = 'grocery' AND day BETWEEN DATE '2026-08-01' AND DATE '2026-09-05'
