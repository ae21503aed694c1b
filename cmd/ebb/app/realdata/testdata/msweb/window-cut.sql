-- Begins before what is kept.
SELECT visitor FROM about WHERE category = 'download' AND day BETWEEN DATE '2026-07-01' AND DATE '2026-09-10'
