SELECT visitor FROM about WHERE category = 'developer' AND day > today() - 10
UNION SELECT visitor FROM about WHERE category = 'download' AND day > today() - 40 GROUP BY visitor HAVING count(*) >= 2
UNION SELECT visitor FROM about WHERE category = 'windows' GROUP BY visitor HAVING today() - max(day) BETWEEN 50 AND 70
