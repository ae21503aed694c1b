SELECT visitor FROM about WHERE category = 'food' AND day >= DATE '2026-11-20' GROUP BY visitor HAVING count(DISTINCT id) BETWEEN 2 AND 4
