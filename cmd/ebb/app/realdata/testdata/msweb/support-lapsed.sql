SELECT visitor FROM about WHERE category = 'support' GROUP BY visitor HAVING today() - max(day) BETWEEN 30 AND 60
