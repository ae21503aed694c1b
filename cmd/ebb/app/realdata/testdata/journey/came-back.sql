-- Food in the last week, none in the seven weeks before, some in September.
SELECT visitor FROM about WHERE category = 'food'
GROUP BY visitor
HAVING bool_or(day > today() - 7) AND NOT bool_or(day BETWEEN DATE '2026-10-01' AND DATE '2026-11-18')
    AND bool_or(day BETWEEN DATE '2026-08-28' AND DATE '2026-09-30')
