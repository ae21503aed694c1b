SELECT visitor FROM about WHERE category = 'food' AND day BETWEEN DATE '2026-10-01' AND DATE '2026-10-31' GROUP BY visitor HAVING count(DISTINCT id) >= 3
