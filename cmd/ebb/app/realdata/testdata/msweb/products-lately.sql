SELECT visitor FROM about WHERE category = 'products' GROUP BY visitor HAVING count(DISTINCT area) >= 2 AND today() - max(day) <= 20
